//! Code that runs with our rights is named with its owner.

use replicator::check::{Severity, Side};
use tests::postgres::Postgres;

use crate::support::*;

const TABLES: &[&str] = &[
    "CREATE ROLE mover LOGIN REPLICATION",
    "CREATE ROLE app",
    "CREATE ROLE other",
    "GRANT ALL ON SCHEMA public TO app, other",
    "CREATE FUNCTION public.looks(i int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true'",
    "CREATE FUNCTION public.fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "ALTER FUNCTION public.looks(int) OWNER TO other",
    "CREATE DOMAIN public.odd AS int CHECK (public.looks(VALUE))",
    // Of a superuser, but with a function of somebody else.
    "CREATE TABLE public.ours (id int PRIMARY KEY CHECK (public.looks(id)))",
    "CREATE TABLE public.theirs (id int PRIMARY KEY, o public.odd, s text DEFAULT pg_read_file('x'),
       n int DEFAULT 7 CHECK (n > 0 AND n < 9), at timestamptz DEFAULT now(), u serial)",
    "CREATE INDEX looked ON public.theirs (public.looks(id)) WHERE id > 0",
    "CREATE TRIGGER fires AFTER INSERT ON public.theirs FOR EACH ROW EXECUTE PROCEDURE public.fires()",
    "CREATE TRIGGER quiet AFTER INSERT ON public.theirs FOR EACH ROW EXECUTE PROCEDURE public.fires()",
    "ALTER TABLE public.theirs ENABLE ALWAYS TRIGGER fires",
    "ALTER TABLE public.theirs OWNER TO app",
    // Nobody's code but the server's.
    "CREATE TABLE public.plain (id int PRIMARY KEY CHECK (id > 0), t text, g text DEFAULT upper('x'))",
    "CREATE INDEX lowered ON public.plain (lower(t))",
    "ALTER TABLE public.plain OWNER TO app",
];

const EXPECTED: [&str; 5] = [
    "\"public\".\"ours\": constraint ours_id_check calls public.looks(integer), by \"other\"",
    "\"public\".\"theirs\": default s calls pg_read_file(text), by \"app\"",
    "\"public\".\"theirs\": trigger fires (ALWAYS) calls public.fires(), by \"app\"",
    "\"public\".\"theirs\": domain odd calls public.looks(integer), by \"other\"",
    "\"public\".\"theirs\": index looked calls public.looks(integer), by \"other\"",
];

#[tokio::test]
async fn code_of_others_is_named_with_its_owner() {
    for (blue, green) in [(10, 18), (15, 17)] {
        let blue = Postgres::start_major(blue).unwrap();
        let green = Postgres::start_major(green).unwrap();
        run(&blue, "postgres", TABLES).await;
        run(&green, "postgres", &["CREATE ROLE mover LOGIN REPLICATION", "CREATE ROLE app"]).await;
        let ends = ((&blue, "postgres"), (&green, "postgres"));
        for role in ["mover", "postgres"] {
            let report = check_as(&request(), role, ends.0, ends.1).await;
            let found = at(&report, Side::Blue, "table-code");
            assert_eq!(found.severity, Severity::Warning);
            let mut expected = EXPECTED.to_vec();
            expected.sort_unstable();
            let mut objects = found.objects.clone();
            objects.sort_unstable();
            assert_eq!(objects, expected, "{role}: {report}");
            assert_eq!(found.summary.contains("superuser"), role == "postgres");
            assert_eq!(at(&report, Side::Green, "table-code").severity, Severity::Ok);
        }
    }
}
