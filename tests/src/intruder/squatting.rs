//! Our schema: made before us, and reached into afterwards.

use anyhow::Result;

use super::{Ground, SOON, Summary, Who};
use crate::postgres::connect_url;
use crate::stage::{APP, DATABASE, Stage};

/// What the owner of the database has there before the sidecar comes; each is taken away again.
const BEFORE: [(&str, &str); 4] = [
    (
        "a table of ours with a trigger",
        "CREATE SCHEMA _cutover; CREATE TABLE _cutover.stream (pipeline text PRIMARY KEY);
         CREATE FUNCTION public.evil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO public.ran VALUES (current_user, 'trigger'); RETURN NEW; END $$;
         CREATE TRIGGER evil BEFORE INSERT ON _cutover.stream FOR EACH ROW EXECUTE PROCEDURE public.evil()",
    ),
    (
        "a view in place of our table",
        "CREATE SCHEMA _cutover; CREATE FUNCTION public.evil() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO public.ran VALUES (current_user, 'view'); RETURN 'x'; END $$;
         CREATE VIEW _cutover.lease AS SELECT public.evil() AS pipeline",
    ),
    (
        "a default with a function",
        "CREATE SCHEMA _cutover; CREATE FUNCTION public.evil() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO public.ran VALUES (current_user, 'default'); RETURN now(); END $$;
         CREATE TABLE _cutover.copy_state (item text PRIMARY KEY, detail text, at timestamptz DEFAULT public.evil())",
    ),
    ("an empty schema", "CREATE SCHEMA _cutover; GRANT ALL ON SCHEMA _cutover TO PUBLIC"),
];

pub(super) async fn before(stage: &Stage, summary: &mut Summary) -> Result<()> {
    for is_green in [false, true] {
        let server = if is_green { &stage.green } else { &stage.blue };
        let side = if is_green { "green" } else { "blue" };
        if is_green {
            let ran = "CREATE TABLE public.ran (as_role text, by text); GRANT INSERT ON public.ran TO PUBLIC";
            server.execute(DATABASE, ran).await?;
        }
        for (what, sql) in BEFORE {
            let owner = connect_url(&server.url_as(APP, DATABASE)).await?;
            owner.batch_execute(sql).await.map_err(|error| crate::postgres::describe(&error))?;
            let tried = stage.replicator_command("run")?.run(SOON);
            let harm = match tried {
                Ok(ended)
                    if ended.code() != 0 && ended.stderr.contains("_cutover is not ours alone") =>
                {
                    None
                }
                Ok(ended) => {
                    Some(format!("the sidecar ended with {}: {}", ended.code(), ended.stderr))
                }
                Err(error) => Some(format!("the sidecar took it: {error:#}")),
            };
            let ran = server.value(DATABASE, "SELECT count(*) FROM public.ran").await?;
            let harm = harm.or((ran != "0").then(|| "code ran".to_owned()));
            summary.note(Who::Owner, format!("{what}, before us on {side}"), harm);
            owner
                .batch_execute(
                    "DROP SCHEMA _cutover CASCADE; DROP FUNCTION IF EXISTS public.evil() CASCADE",
                )
                .await
                .map_err(|error| crate::postgres::describe(&error))?;
        }
        if is_green {
            server.execute(DATABASE, "DROP TABLE public.ran").await?;
        }
    }
    Ok(())
}

/// What nobody may do to our schema on green, where it is now.
const AFTER: [(&str, &str); 7] = [
    ("to read the secret", "SELECT secret FROM _cutover.own_mark"),
    ("to move the progress", "UPDATE _cutover.progress SET end_lsn = 'FFFF/0'"),
    ("to forge a decision", "INSERT INTO _cutover.decision (epoch, verdict) VALUES (99, 'commit')"),
    ("to take the lease", "UPDATE _cutover.lease SET holder = 'me'"),
    ("to drop our schema", "DROP SCHEMA _cutover CASCADE"),
    ("to make something in our schema", "CREATE TABLE _cutover.mine (a int)"),
    ("to hang a child on our table", "CREATE TABLE public.child () INHERITS (_cutover.progress)"),
];

pub(super) async fn after(ground: &mut Ground) -> Result<()> {
    for (role, who) in [(APP, Who::Owner), ("nobody", Who::Nobody)] {
        for (what, sql) in AFTER {
            let done = ground.tries(true, role, sql).await?;
            ground.summary.note(
                who,
                what,
                done.is_ok().then(|| "green has let it happen".to_owned()),
            );
        }
    }
    Ok(())
}
