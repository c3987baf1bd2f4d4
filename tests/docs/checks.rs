//! `docs/reference/checks.md`: the names of what `replicator check` finds, and of what a run looks at before it begins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, ensure};
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{
    Expr, ExprCall, FnArg, ImplItemFn, Item, ItemConst, ItemFn, ItemMod, Local, Pat, Visibility,
};
use tests::documents::{cell, generated};

use crate::rust::{is_test, literal, parse, sources};

const PAGE: &str = "docs/reference/checks.md";

/// What is known of one name.
#[derive(Default)]
struct Named {
    severities: BTreeSet<&'static str>,
    engines: BTreeSet<&'static str>,
    /// What it says when something is found.
    about: Option<String>,
    /// What it says when nothing is.
    fine: Option<String>,
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

/// The names that a pattern binds.
fn identifiers(pattern: &Pat) -> Vec<String> {
    match pattern {
        Pat::Ident(one) => vec![one.ident.to_string()],
        Pat::Tuple(several) => several.elems.iter().flat_map(identifiers).collect(),
        _ => Vec::new(),
    }
}

/// What is given for a first parameter that is called `id`, all over a file.
fn given_as_id(file: &syn::File) -> Vec<String> {
    struct Calls {
        takes_id: BTreeSet<String>,
        given: Vec<String>,
    }
    impl<'ast> Visit<'ast> for Calls {
        fn visit_expr_call(&mut self, call: &'ast ExprCall) {
            if self.takes_id.contains(&call.func.to_token_stream().to_string()) {
                self.given.extend(call.args.first().and_then(literal));
            }
            visit::visit_expr_call(self, call);
        }
    }
    let takes_id = file.items.iter().filter_map(|item| match item {
        Item::Fn(function) => match function.sig.inputs.first()? {
            FnArg::Typed(first) if identifiers(&first.pat) == ["id"] => {
                Some(function.sig.ident.to_string())
            }
            _ => None,
        },
        _ => None,
    });
    let mut calls = Calls { takes_id: takes_id.collect(), given: Vec::new() };
    calls.visit_file(file);
    calls.given
}

/// A name of a check.
fn is_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
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

impl Reader<'_> {
    /// What the variable or constant in an expression stands for.
    fn bound(&self, of: &Expr) -> Vec<String> {
        let of = match of {
            Expr::Reference(inner) => &*inner.expr,
            of => of,
        };
        let tokens = of.to_token_stream().to_string();
        let variable = tokens.split([' ', '.', '[']).next().unwrap_or_default();
        self.strings.get(variable).cloned().unwrap_or_default()
    }
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
            let texts = told(&init.expr).map_or_else(|| literals(&init.expr), |text| vec![text]);
            for name in identifiers(&item.pat) {
                self.strings.insert(name, texts.clone());
            }
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
            // A closure that makes one or the other.
            _ if function == "check"
                && call.args.first().is_some_and(|one| literal(one).is_some()) =>
            {
                Some("FAIL")
            }
            _ => None,
        };
        if let (Some(severity), Some(first)) = (severity, call.args.first()) {
            let mut names = literals(first);
            if names.is_empty() {
                names.extend(told(first));
            }
            if names.is_empty() {
                names = self.bound(first);
            }
            let passed_on = PASSED_ON.iter().find(|(path, _)| *path == self.path);
            if names.is_empty()
                && let Some((_, constants)) = passed_on
            {
                let values = constants.iter().filter_map(|name| self.strings.get(*name));
                names = values.flatten().cloned().collect();
            }
            for name in &mut names {
                *name = name.replace("way-back-..", "way-back-FINDING").replace("..", "SIDE");
            }
            names.retain(|name| is_name(name));
            if names.is_empty() && passed_on.is_none() {
                self.unknown.push(format!("{}: {}", self.path, first.to_token_stream()));
            }
            let about = call.args.iter().skip(1).find_map(|argument| {
                told(argument)
                    .or_else(|| self.bound(argument).into_iter().find(|text| text.contains(' ')))
            });
            for name in names {
                let named = self.found.entry(name).or_default();
                named.severities.insert(severity);
                named.engines.insert(self.engine);
                let place = if severity == "ok" { &mut named.fine } else { &mut named.about };
                if place.is_none() {
                    place.clone_from(&about);
                }
            }
        }
        visit::visit_expr_call(self, call);
    }
}

/// Every text constant of `files`, by file: parsing is slow.
type Constants = BTreeMap<String, Vec<(String, Vec<String>)>>;

/// Those of files in the same folder and in the one above that others may use.
fn of_neighbours(path: &str, constants: &Constants) -> BTreeMap<String, Vec<String>> {
    let folder = Path::new(path).parent();
    let above = folder.and_then(Path::parent);
    let of = |folder: Option<&Path>| {
        let files = constants.iter().filter(move |(path, _)| Path::new(path).parent() == folder);
        files.flat_map(|(_, constants)| constants.iter().cloned()).collect::<Vec<_>>()
    };
    of(above).into_iter().chain(of(folder)).collect()
}

fn read(of: &'static str, folders: &[&str]) -> Result<(BTreeMap<String, Named>, Vec<String>)> {
    let mut found = BTreeMap::new();
    let mut unknown = Vec::new();
    let mut files = BTreeMap::new();
    for folder in folders {
        for path in sources(folder)? {
            let ends = ["fixture.rs", "tests.rs", "sim.rs"];
            if !ends.iter().any(|end| path.ends_with(end)) && !path.contains("/simulation/") {
                files.insert(path.clone(), parse(&path)?);
            }
        }
    }
    let mut constants = Constants::new();
    for (path, file) in &files {
        let own = file.items.iter().filter_map(|item| match item {
            Item::Const(item)
                if path.ends_with("mod.rs") || !matches!(item.vis, Visibility::Inherited) =>
            {
                Some((item.ident.to_string(), literals(&item.expr)))
            }
            _ => None,
        });
        constants.insert(path.clone(), own.collect());
    }
    for (path, file) in &files {
        let engine = if path.contains("mysql") { "MySQL, MariaDB" } else { "PostgreSQL" };
        let mut strings = of_neighbours(path, &constants);
        strings.insert("id".into(), given_as_id(file));
        let mut reader =
            Reader { of, path, engine, strings, found: &mut found, unknown: &mut unknown };
        // Constants may stand behind what uses them.
        for item in &file.items {
            if let Item::Const(item) = item {
                reader.visit_item_const(item);
            }
        }
        reader.visit_file(file);
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
        text += &format!(
            " {} |\n",
            cell(named.about.as_deref().or(named.fine.as_deref()).unwrap_or_default())
        );
    }
    text
}

/// Where names come from elsewhere, and the constants of these files that they can be. What
/// `mysql/comparing.rs` and `mysql/inspecting.rs` pass on are findings of the preflight.
const PASSED_ON: [(&str, &[&str]); 5] = [
    ("replicator/src/check/mysql/logins/mod.rs", &["ID"]),
    ("replicator/src/check/mysql/settings.rs", &["ID"]),
    ("cutover/src/verify/definitions.rs", &["SETTINGS", "RIGHTS", "LOGINS", "DEFINITIONS"]),
    ("replicator/src/pipeline/mysql/comparing.rs", &[]),
    ("replicator/src/pipeline/inspecting.rs", &[]),
];

#[test]
fn every_finding_of_the_preflight_has_a_row() -> Result<()> {
    let (found, unknown) = read("Finding", &["replicator/src/check"])?;
    ensure!(found.len() > 80, "{} findings were understood", found.len());
    ensure!(unknown.is_empty(), "names that can't be told: {unknown:#?}");
    generated(PAGE, "findings", &table(&found, true))
}

#[test]
fn every_check_of_a_run_has_a_row() -> Result<()> {
    let (found, unknown) = read("Check", &["cutover/src", "replicator/src"])?;
    ensure!(found.len() > 20, "{} checks were understood", found.len());
    ensure!(unknown.is_empty(), "names that can't be told: {unknown:#?}");
    generated(PAGE, "checks", &table(&found, false))
}
