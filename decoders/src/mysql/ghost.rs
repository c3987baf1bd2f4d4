//! Tables that tools for schema changes make beside the one that they change.

/// A table of a tool's, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ghost<'a> {
    /// The tools that name tables so.
    pub tool: &'static str,
    /// The table that is changed.
    pub original: &'a str,
    /// It is what a change that is over leaves: the table as it was.
    pub is_left: bool,
}

/// gh-ost names its tables `_t_gho`, `_t_ghc` and `_t_del`, pt-online-schema-change `_t_new` and `_t_old`,
/// where `t` is the table that is changed. Other tables may have such names: whether `t` is there tells
/// more.
pub fn ghost(name: &str) -> Option<Ghost<'_>> {
    const ENDS: [(&str, &str, bool); 5] = [
        ("_gho", "gh-ost", false),
        ("_ghc", "gh-ost", false),
        ("_del", "gh-ost", true),
        ("_new", "pt-online-schema-change", false),
        ("_old", "pt-online-schema-change", true),
    ];
    let bare = name.strip_prefix('_')?;
    ENDS.iter().find_map(|(end, tool, is_left)| {
        let original = bare.strip_suffix(end).filter(|name| !name.is_empty())?;
        Some(Ghost { tool, original, is_left: *is_left })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_tools_are_told_from_others() {
        let of = |name| ghost(name).map(|ghost| (ghost.tool, ghost.original, ghost.is_left));
        assert_eq!(of("_order_items_gho"), Some(("gh-ost", "order_items", false)));
        assert_eq!(of("_t_del"), Some(("gh-ost", "t", true)));
        assert_eq!(of("_t_old"), Some(("pt-online-schema-change", "t", true)));
        for other in ["t_gho", "_gho", "__gho", "_t_ghost", "t", "_new"] {
            assert!(of(other).is_none_or(|(_, original, _)| original.is_empty()), "{other}");
        }
    }
}
