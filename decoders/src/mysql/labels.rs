//! The labels of ENUM and SET as the catalog has them.

/// The labels in a `column_type` of `information_schema.columns`, such as `enum('a','it''s')`;
/// `None` if it is another type or malformed.
pub fn labels(column_type: &str) -> Option<Vec<String>> {
    let list = column_type.strip_prefix("enum(").or(column_type.strip_prefix("set("))?;
    let mut labels = Vec::new();
    let mut rest = list;
    loop {
        let mut label = String::new();
        rest = rest.strip_prefix('\'')?;
        loop {
            let (text, after) = rest.split_once('\'')?;
            label.push_str(text);
            rest = after;
            // A quote inside of a label is doubled.
            match rest.strip_prefix('\'') {
                Some(after) => {
                    label.push('\'');
                    rest = after;
                }
                None => break,
            }
        }
        labels.push(label);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            // What may follow is a character set.
            None => return rest.starts_with(')').then_some(labels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::labels;

    #[test]
    fn quotes_and_commas_may_be_in_labels() {
        let found = labels("enum('a','it''s','x,y','','\\',')')").unwrap();
        assert_eq!(found, ["a", "it's", "x,y", "", "\\", ")"]);
        assert_eq!(labels("set('a')").unwrap(), ["a"]);
        for other in ["int", "enum()", "enum('a'", "enum('a", "set('a'x)"] {
            assert_eq!(labels(other), None, "{other}");
        }
    }
}
