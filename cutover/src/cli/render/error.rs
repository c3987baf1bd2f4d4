//! An error: what, where, the state now, whether the data is safe, the next command.

use crate::api::ApiError;

use super::Paint;

/// How a state begins of which nothing is known.
pub const UNKNOWN: &str = "unknown";

/// Five lines.
pub fn render_error(error: &ApiError, paint: Paint) -> String {
    let data = match error.data_safe {
        true => "safe".to_owned(),
        false if error.state.starts_with(UNKNOWN) => {
            paint.warn("not known to this command: only the sidecar can tell")
        }
        false => paint.bad("NOT PROVEN SAFE: keep both servers as they are"),
    };
    let mut text = format!(
        "{} {}\n where  {}\n state  {}\n data   {data}\n",
        paint.bad("error:"),
        error.what,
        error.place,
        error.state,
    );
    if let Some(next) = &error.next_command {
        text.push_str(&format!(" next   {next}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ErrorCode;

    #[test]
    fn nothing_that_an_operator_needs_is_missing() {
        let error = ApiError::new(ErrorCode::Internal, "the fence leaks", "blue")
            .in_state("aborted; blue serves")
            .next("cutover history");
        assert_eq!(
            render_error(&error, Paint::none()),
            "error: the fence leaks\n where  blue\n state  aborted; blue serves\n data   safe\n \
             next   cutover history\n"
        );
        let unsafe_error = ApiError { data_safe: false, ..error };
        assert!(render_error(&unsafe_error, Paint::none()).contains("NOT PROVEN SAFE"));
        let unseen = unsafe_error.in_state("unknown: a run may be going on");
        let text = render_error(&unseen, Paint::none());
        assert!(text.contains(" data   not known to this command"), "{text}");
    }
}
