//! What a page needs of a source file: comments, attributes, constants and literals.

use anyhow::{Context, Result};
use quote::ToTokens;
use syn::{Attribute, Expr, ExprLit, Lit, Meta};
use tests::documents::{read, root};

/// A source file, parsed.
pub fn parse(path: &str) -> Result<syn::File> {
    syn::parse_file(&read(path)?).with_context(|| path.to_owned())
}

/// All source files below `folder`, as paths from the top.
pub fn sources(folder: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let path = path.strip_prefix(root())?;
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The doc comment, in one line, without links that lead into the code.
pub fn comment(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter(|attribute| attribute.path().is_ident("doc"));
    let lines = lines.filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) => literal(&pair.value),
        _ => None,
    });
    let text = lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>().join(" ");
    without_links(&text)
}

/// `[text](target)` becomes `text`, but for targets on the web. Of `[text]` the brackets go.
fn without_links(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((head, inner)) = rest.split_once("[`") {
        out.push_str(head);
        let Some((name, tail)) = inner.split_once("`]") else {
            rest = inner;
            continue;
        };
        out.push_str(&format!("`{name}`"));
        rest = match tail.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            Some((_, tail)) => tail,
            None => tail,
        };
    }
    out + rest
}

/// The string in a literal.
pub fn literal(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

/// Whether an item is there for tests only.
pub fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.to_token_stream().to_string().contains("test")
    })
}

/// `FooBar` as serde writes it with `rename_all = "snake_case"`.
pub fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
