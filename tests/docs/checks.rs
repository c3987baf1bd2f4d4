//! `docs/reference/checks.md`: the names of what `replicator check` finds, and of what a run looks at before it begins.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{Expr, ExprCall, ImplItemFn, Item, ItemConst, ItemFn, ItemMod, Local};
use tests::documents::{cell, generated};

use crate::rust::{is_test, literal, parse, sources};

const PAGE: &str = "docs/reference/checks.md";

/// What is known of one name.
#[derive(Default)]
struct Named {
    severities: BTreeSet<&'static str>,
    engines: BTreeSet<&'static str>,
    about: Option<String>,
}

/// Reads calls like `Finding::blocker("name", side, "what it means")`.
struct Reader<'a> {
    of: &'static str,
    path: &'a str,
    engine: &'static str,
    strings: BTreeMap<String, Vec<String>>,
    found: &'a mut BTreeMap<String, Named>,
    unknown: &'a mut Vec<String>,
}

/// The string literals in an expression.
fn literals(of: &Expr) -> Vec<String> {
    struct All(Vec<String>);
    impl<'ast> Visit<'ast> for All {
        fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
            self.0.push(text.value());
        }
    }
    let mut all = All(Vec::new());
    all.visit_expr(of);
    all.0
}

/// A name of a check.
fn is_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() < 40 && text.chars().all(legal)
}

/// The text of a `format!`, its holes as dots.
fn told(of: &Expr) -> Option<String> {
    if let Some(text) = literal(of) {
        return Some(text);
    }
    let Expr::Macro(call) = of else { return None };
    let text: syn::LitStr = call
        .mac
        .parse_body_with(|input: syn::parse::ParseStream<'_>| {
            let text = input.parse()?;
            input.parse::<proc_macro2::TokenStream>()?;
            Ok(text)
        })
        .ok()?;
    let mut out = String::new();
    let mut inside = false;
    for c in text.value().chars() {
        match c {
            '{' => inside = true,
            '}' => {
                inside = false;
                out.push_str("..");
            }
            c if !inside => out.push(c),
            _ => {}
        }
    }
    Some(out)
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_const(&mut self, item: &'ast ItemConst) {
        self.strings.insert(item.ident.to_string(), literals(&item.expr));
        visit::visit_item_const(self, item);
    }

    fn visit_local(&mut self, item: &'ast Local) {
        if let Some(init) = &item.init {
            let names = literals(&init.expr);
            self.strings.insert(item.pat.to_token_stream().to_string(), names);
        }
        visit::visit_local(self, item);
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        let function = call.func.to_token_stream().to_string().replace(' ', "");
        let severity = match function.strip_prefix(self.of).and_then(|rest| rest.strip_prefix("::"))
        {
            Some("blocker") => Some("BLOCKER"),
            Some("fail") => Some("FAIL"),
            Some("warning" | "warn") => Some("WARNING"),
            Some("ok") => Some("ok"),
            _ => None,
        };
        if let (Some(severity), Some(first)) = (severity, call.args.first()) {
            let mut names = literals(first);
            if names.is_empty() {
                let tokens = first.to_token_stream().to_string();
                let variable = tokens.split([' ', '.', '[']).next().unwrap_or_default();
                names = self.strings.get(variable).cloned().unwrap_or_default();
            }
            names.retain(|name| is_name(name));
            if names.is_empty() {
                self.unknown.push(format!("{}: {}", self.path, first.to_token_stream()));
            }
            let about = call.args.iter().skip(1).find_map(told);
            for name in names {
                let named = self.found.entry(name).or_default();
                named.severities.insert(severity);
                named.engines.insert(self.engine);
                if severity != "ok" || named.about.is_none() {
                    named.about = named.about.take().filter(|_| severity == "ok").or(about.clone());
                }
            }
        }
        visit::visit_expr_call(self, call);
    }
}

fn read(of: &'static str, folders: &[&str]) -> Result<(BTreeMap<String, Named>, Vec<String>)> {
    let mut found = BTreeMap::new();
    let mut unknown = Vec::new();
    for folder in folders {
        for path in sources(folder)? {
            let ends = ["fixture.rs", "tests.rs", "sim.rs"];
            if ends.iter().any(|end| path.ends_with(end)) || path.contains("/simulation/") {
                continue;
            }
            let engine = if path.contains("mysql") { "MySQL, MariaDB" } else { "PostgreSQL" };
            let file = parse(&path)?;
            let strings = BTreeMap::new();
            let mut reader = Reader {
                of,
                path: &path,
                engine,
                strings,
                found: &mut found,
                unknown: &mut unknown,
            };
            // Constants may stand behind what uses them.
            for item in &file.items {
                if let Item::Const(item) = item {
                    reader.visit_item_const(item);
                }
            }
            reader.visit_file(&file);
        }
    }
    Ok((found, unknown))
}

fn table(found: &BTreeMap<String, Named>, with_engine: bool) -> String {
    let mut text = String::from("| Name | Can be |");
    text += if with_engine { " Engine |" } else { "" };
    text += " About |\n|---|---|---|";
    text += if with_engine { "---|\n" } else { "\n" };
    for (name, named) in found {
        let join = |words: &BTreeSet<&str>| words.iter().copied().collect::<Vec<_>>().join(", ");
        text += &format!("| `{name}` | {} |", join(&named.severities));
        if with_engine {
            text += &format!(" {} |", join(&named.engines));
        }
        text += &format!(" {} |\n", cell(named.about.as_deref().unwrap_or_default()));
    }
    text
}

/// Names that are passed on, from a place that the reader has seen.
const PASSED_ON: usize = 12;

#[test]
fn every_finding_of_the_preflight_has_a_row() -> Result<()> {
    let (found, unknown) = read("Finding", &["replicator/src/check"])?;
    ensure!(found.len() > 80, "{} findings were understood", found.len());
    ensure!(unknown.len() <= PASSED_ON, "names that can't be told: {unknown:#?}");
    generated(PAGE, "findings", &table(&found, true))
}

#[test]
fn every_check_of_a_run_has_a_row() -> Result<()> {
    let (found, unknown) = read("Check", &["cutover/src", "replicator/src"])?;
    ensure!(found.len() > 20, "{} checks were understood", found.len());
    ensure!(unknown.len() <= PASSED_ON, "names that can't be told: {unknown:#?}");
    generated(PAGE, "checks", &table(&found, false))
}
