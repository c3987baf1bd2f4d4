//! Names that we might look up in a schema of somebody else.

use anyhow::Result;

use super::{Ground, SOON, Who};
use crate::stage::{APP, DATABASE};

/// Functions and operators with names of `pg_catalog`'s, each closer to some call than the original; they say as
/// whom they ran.
const SHADOWS: &str = "
    CREATE FUNCTION public.note(by text) RETURNS void LANGUAGE sql SET search_path = pg_catalog
      AS $$ INSERT INTO public.ran VALUES (current_user, by) $$;
    CREATE FUNCTION public.hashtext(varchar) RETURNS int LANGUAGE sql
      AS $$ SELECT public.note('hashtext'); SELECT 1 $$;
    CREATE FUNCTION public.to_regclass(varchar) RETURNS regclass LANGUAGE sql
      AS $$ SELECT public.note('to_regclass'); SELECT NULL::regclass $$;
    CREATE FUNCTION public.current_setting(varchar) RETURNS text LANGUAGE sql
      AS $$ SELECT public.note('current_setting'); SELECT '' $$;
    CREATE FUNCTION public.eq(varchar, varchar) RETURNS bool LANGUAGE sql
      AS $$ SELECT public.note('varchar ='); SELECT true $$;
    CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = varchar, PROCEDURE = public.eq);
    CREATE FUNCTION public.eq(int, bigint) RETURNS bool LANGUAGE sql
      AS $$ SELECT public.note('int ='); SELECT true $$;
    CREATE OPERATOR public.= (LEFTARG = int, RIGHTARG = bigint, PROCEDURE = public.eq);";

pub(super) async fn run(ground: &mut Ground) -> Result<()> {
    for is_green in [false, true] {
        let made = ground.tries(is_green, APP, SHADOWS).await?;
        anyhow::ensure!(made.is_ok(), "the shadows can't be made: {made:?}");
    }
    // Everything that looks things up: the stream, a verification with a condition.
    ground.stage.on_blue("UPDATE public.purse SET amount = amount + 1").await?;
    ground.stage.wait_caught_up(SOON).await?;
    let where_id =
        ["verify", "--rows-only", "--unlimited", "--where", "public.purse: id = 7 AND owner = 'x'"];
    let verified = ground.stage.cutover(&where_id, 2 * SOON)?;
    for is_green in [false, true] {
        let (server, side) = match is_green {
            true => (&ground.stage.green, "green"),
            false => (&ground.stage.blue, "blue"),
        };
        let ran = "SELECT coalesce(string_agg(DISTINCT by || ' as ' || as_role, ', '), '') FROM public.ran";
        let ran = server.value(DATABASE, ran).await?;
        let harm = (!ran.is_empty()).then(|| format!("ran on {side}: {ran}"));
        ground.summary.note(
            Who::Owner,
            format!("functions and operators in public, on {side}"),
            harm,
        );
    }
    let harm = (verified.code() != 0).then(|| format!("verify ended with {}", verified.stderr));
    ground.summary.note(Who::Owner, "operators that make rows look equal", harm);

    // A policy that hides rows from whoever is not exempt.
    let hide = "ALTER TABLE public.purse ENABLE ROW LEVEL SECURITY; \
                ALTER TABLE public.purse FORCE ROW LEVEL SECURITY; \
                CREATE POLICY none ON public.purse USING (false)";
    let hidden = ground.tries(true, APP, hide).await?;
    anyhow::ensure!(hidden.is_ok(), "no policy: {hidden:?}");
    ground.stage.blue.execute(DATABASE, "UPDATE public.purse SET amount = 7 WHERE id = 8").await?;
    ground.stage.wait_caught_up(SOON).await?;
    let seen =
        ground.stage.green.value(DATABASE, "SELECT amount FROM public.purse WHERE id = 8").await?;
    let harm = (seen != "7").then(|| format!("green has {seen} for 7"));
    ground.summary.note(Who::Owner, "a policy that hides rows on green from the stream", harm);
    Ok(())
}
