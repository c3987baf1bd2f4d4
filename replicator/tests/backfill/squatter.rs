//! Somebody who may create objects in a schema of the usual search path.

use anyhow::Result;

use super::stage::{DATABASE, Stage};

/// Code of a table that leaves a name open.
const TABLE: &str = "CREATE SCHEMA app;
    CREATE FUNCTION app.is_low(v varchar) RETURNS bool LANGUAGE plpgsql IMMUTABLE
      AS $$ BEGIN RETURN lower(v) = v; END $$;
    CREATE TABLE app.t (id int PRIMARY KEY, v varchar CHECK (app.is_low(v)));
    CREATE INDEX low ON app.t (app.is_low(v));
    INSERT INTO app.t SELECT g, 'x' FROM generate_series(1, 100) g";

/// A function that is closer to the call than the server's own.
const SQUAT: &str = "CREATE ROLE squatter; GRANT CREATE ON SCHEMA public TO squatter;
    CREATE TABLE public.ran (as_role text); GRANT INSERT ON public.ran TO PUBLIC;
    SET ROLE squatter;
    CREATE FUNCTION public.lower(v varchar) RETURNS text LANGUAGE plpgsql
      AS $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN pg_catalog.lower(v); END $$;
    RESET ROLE";

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_puts_in_the_search_path_does_not_run_while_rows_are_copied() -> Result<()> {
    let stage = Stage::new(15, 17).await?;
    stage.on_blue(TABLE).await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    stage.on_green(SQUAT).await?;
    let summary = stage.rows(&snapshot).await?;
    assert_eq!(summary.rows, 100);
    stage.post_data().await?;
    stage.analyze(&summary).await?;
    let ran = "SELECT count(*) FROM public.ran";
    assert_eq!(stage.green.value(DATABASE, ran).await?, "0");
    // A session with the usual path falls for it.
    stage.on_green("INSERT INTO app.t VALUES (101, 'x')").await?;
    assert_ne!(stage.green.value(DATABASE, ran).await?, "0");
    Ok(())
}
