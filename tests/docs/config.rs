//! `docs/reference/configuration.md`: every key of the sidecar's configuration, from the types that serde fills.
//!
//! A key that can't be told (a type, a default) fails the test: the page never leaves one out.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use quote::ToTokens;
use syn::{
    Attribute, Block, Expr, Field, Fields, File, GenericArgument, Item, ItemStruct, LitStr,
    PathArguments, Stmt, Type,
};
use tests::documents::{cell, generated};

use crate::rust::{comment, parse, snake};

const PAGE: &str = "docs/reference/configuration.md";

/// Where the types stand.
const FILES: [&str; 13] = [
    "replicator/src/config.rs",
    "replicator/src/config/api.rs",
    "replicator/src/alerts/config.rs",
    "replicator/src/backfill/config.rs",
    "replicator/src/backfill/setting.rs",
    "replicator/src/pipeline/life.rs",
    "replicator/src/protect/config.rs",
    "replicator/src/schema/config.rs",
    "decoders/src/postgres/catalog/filter.rs",
    "cutover/src/switch/config.rs",
    "cutover/src/proxy/config.rs",
    "cutover/src/watch/config.rs",
    "cutover/src/api/watch.rs",
];

/// What a field's type is, without its wrapping.
#[derive(Clone, Copy, PartialEq)]
enum Wrapped {
    Plain,
    Optional,
    Many,
}

struct Types {
    files: Vec<File>,
}

/// A section of the file.
struct Section<'a> {
    title: String,
    path: String,
    file: usize,
    item: &'a ItemStruct,
}

impl Types {
    fn read() -> Result<Self> {
        let files = FILES.iter().map(|path| parse(path)).collect::<Result<_>>()?;
        Ok(Self { files })
    }

    /// The item of this name: in the same file, or else in the only one that has it.
    fn find<'a, T>(
        &'a self,
        file: usize,
        pick: impl Fn(&'a Item) -> Option<T>,
    ) -> Option<(usize, T)> {
        let in_file =
            |at: usize| self.files[at].items.iter().find_map(&pick).map(|item| (at, item));
        in_file(file).or_else(|| (0..self.files.len()).find_map(in_file))
    }

    fn structure(&self, file: usize, name: &str) -> Option<(usize, &ItemStruct)> {
        self.find(file, |item| match item {
            Item::Struct(item) if item.ident == name => Some(item),
            _ => None,
        })
    }

    fn enumeration(&self, file: usize, name: &str) -> Option<&syn::ItemEnum> {
        let found = self.find(file, |item| match item {
            Item::Enum(item) if item.ident == name => Some(item),
            _ => None,
        });
        found.map(|(_, item)| item)
    }

    fn function(&self, file: usize, name: &str) -> Option<&Block> {
        self.files[file].items.iter().find_map(|item| match item {
            Item::Fn(item) if item.sig.ident == name => Some(&*item.block),
            _ => None,
        })
    }

    /// The body of `impl Default for NAME`.
    fn default_of(&self, file: usize, name: &str) -> Option<&Block> {
        self.files[file].items.iter().find_map(|item| {
            let Item::Impl(item) = item else { return None };
            let (_, of, _) = item.trait_.as_ref()?;
            if !of.is_ident("Default") || item.self_ty.to_token_stream().to_string() != name {
                return None;
            }
            item.items.iter().find_map(|item| match item {
                syn::ImplItem::Fn(item) => Some(&item.block),
                _ => None,
            })
        })
    }
}

/// The words of `#[serde(..)]`, each with its value.
fn serde(attributes: &[Attribute]) -> Result<BTreeMap<String, Option<String>>> {
    let mut words = BTreeMap::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            let word = meta.path.to_token_stream().to_string();
            let value = match meta.value() {
                Ok(value) => Some(value.parse::<LitStr>()?.value()),
                Err(_) => None,
            };
            words.insert(word, value);
            Ok(())
        })?;
    }
    Ok(words)
}

/// The name of a type, and what it is wrapped in.
fn unwrap(of: &Type) -> Result<(Wrapped, String)> {
    let Type::Path(path) = of else { bail!("not a type by name: {}", of.to_token_stream()) };
    let last = path.path.segments.last().context("a type without a name")?;
    let inner = || -> Result<String> {
        let PathArguments::AngleBracketed(of) = &last.arguments else { bail!("no argument") };
        let Some(GenericArgument::Type(inner)) = of.args.first() else { bail!("no argument") };
        Ok(unwrap(inner)?.1)
    };
    Ok(match last.ident.to_string().as_str() {
        "Option" => (Wrapped::Optional, inner()?),
        "Vec" | "BTreeSet" => (Wrapped::Many, inner()?),
        name => (Wrapped::Plain, name.to_owned()),
    })
}

/// How a value is written, for types that are no section.
fn kind(types: &Types, file: usize, name: &str) -> Result<String> {
    Ok(match name {
        "String" => "text".into(),
        "PathBuf" => "path".into(),
        "bool" => "true or false".into(),
        "u16" | "u32" | "u64" | "usize" => "integer".into(),
        "f64" => "number".into(),
        "SocketAddr" => "address:port".into(),
        "Secret" => "text, secret".into(),
        "TablePattern" => "`schema.table`, `*` and `?` match".into(),
        "Setting" => "`\"auto\"` or integer".into(),
        _ => {
            let found = types.enumeration(file, name).with_context(|| format!("type {name}"))?;
            let values =
                found.variants.iter().map(|one| format!("`\"{}\"`", snake(&one.ident.to_string())));
            values.collect::<Vec<_>>().join(", ")
        }
    })
}

/// What the values of an enum mean.
fn values(types: &Types, file: usize, name: &str) -> String {
    let Some(found) = types.enumeration(file, name).filter(|_| name != "Setting") else {
        return String::new();
    };
    let values = found
        .variants
        .iter()
        .map(|one| format!(" `\"{}\"`: {}", snake(&one.ident.to_string()), comment(&one.attrs)));
    values.collect()
}

/// What a key's name says of its unit.
fn unit(key: &str) -> &'static str {
    let stem = ["_max", "_floor"].iter().find_map(|end| key.strip_suffix(end)).unwrap_or(key);
    let units = [
        ("_bytes_per_s", "bytes/s"),
        ("_bytes", "bytes"),
        ("_mib", "MiB"),
        ("_ms", "ms"),
        ("_seconds", "s"),
        ("_s", "s"),
    ];
    units.iter().find(|(end, _)| stem.ends_with(end)).map_or("", |(_, unit)| unit)
}

/// A number with a shift or a product in it.
fn number(value: &Expr) -> Option<u64> {
    match value {
        Expr::Lit(literal) => match &literal.lit {
            syn::Lit::Int(number) => number.base10_parse().ok(),
            _ => None,
        },
        Expr::Binary(both) => {
            let (left, right) = (number(&both.left)?, number(&both.right)?);
            match both.op {
                syn::BinOp::Shl(_) => Some(left << right),
                syn::BinOp::Mul(_) => Some(left * right),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A default, as it would be written in the file. `block` is where `value` stands.
fn written(types: &Types, file: usize, block: &Block, value: &Expr) -> Result<String> {
    if let Some(number) = number(value) {
        return Ok(format!("`{number}`"));
    }
    let tokens = value.to_token_stream().to_string();
    Ok(match value {
        Expr::Lit(_) => format!("`{tokens}`"),
        Expr::Path(_) if tokens == "None" => "none".into(),
        Expr::Path(path) if path.path.segments.len() == 1 => {
            let bound = block.stmts.iter().find_map(|statement| match statement {
                Stmt::Local(local) if local.pat.to_token_stream().to_string() == tokens => {
                    local.init.as_ref()
                }
                _ => None,
            });
            let bound = bound.with_context(|| format!("what {tokens} is"))?;
            written(types, file, block, &bound.expr)?
        }
        Expr::Path(path) => {
            let variant = path.path.segments.last().context("an empty path")?;
            format!("`\"{}\"`", snake(&variant.ident.to_string()))
        }
        Expr::MethodCall(call) if call.method == "into" => {
            written(types, file, block, &call.receiver)?
        }
        Expr::Struct(fields) => {
            let fields = fields.fields.iter().map(|field| {
                let value = written(types, file, block, &field.expr)?;
                Ok(format!("{} = {}", field.member.to_token_stream(), value.trim_matches('`')))
            });
            format!("`{}`", fields.collect::<Result<Vec<_>>>()?.join(", "))
        }
        // `([127, 0, 0, 1], 7654)`, by itself or as an argument.
        Expr::Paren(inner) => written(types, file, block, &inner.expr)?,
        Expr::Tuple(_) => {
            let digits =
                tokens.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
            match digits.collect::<Vec<_>>()[..] {
                [a, b, c, d, port] => format!("`\"{a}.{b}.{c}.{d}:{port}\"`"),
                _ => bail!("an address: {tokens}"),
            }
        }
        Expr::Call(call) => {
            let function = call.func.to_token_stream().to_string().replace(' ', "");
            match (function.rsplit_once("::"), call.args.first()) {
                (Some(("SocketAddr", "from")), Some(argument)) => {
                    written(types, file, block, argument)?
                }
                (Some((_, "new")), None) => "none".into(),
                (Some((of, "default")), None) => of_type(types, file, Wrapped::Plain, of)?,
                (None, None) => {
                    let block = types.function(file, &function);
                    of_block(
                        types,
                        file,
                        block.with_context(|| format!("the function {function}"))?,
                    )?
                }
                _ => bail!("a default: {tokens}"),
            }
        }
        _ => bail!("a default: {tokens}"),
    })
}

/// What a function that gives a default gives.
fn of_block(types: &Types, file: usize, block: &Block) -> Result<String> {
    match block.stmts.last() {
        Some(Stmt::Expr(value, _)) => written(types, file, block, value),
        _ => bail!("a default without a value"),
    }
}

/// The default of a type by itself.
fn of_type(types: &Types, file: usize, wrapped: Wrapped, name: &str) -> Result<String> {
    if wrapped != Wrapped::Plain {
        return Ok("none".into());
    }
    if name == "bool" {
        return Ok("`false`".into());
    }
    if name == "Setting" {
        return Ok("`\"auto\"`".into());
    }
    let found = types.enumeration(file, name).with_context(|| format!("the default of {name}"))?;
    let first =
        found.variants.iter().find(|one| one.attrs.iter().any(|a| a.path().is_ident("default")));
    let first = first.with_context(|| format!("{name} has no default"))?;
    Ok(format!("`\"{}\"`", snake(&first.ident.to_string())))
}

/// The default of a key, in words.
fn default(types: &Types, section: &Section<'_>, field: &Field, key: &str) -> Result<String> {
    let words = serde(&field.attrs)?;
    let whole = serde(&section.item.attrs)?;
    let (wrapped, name) = unwrap(&field.ty)?;
    if let Some(Some(function)) = words.get("default") {
        let block = types.function(section.file, function);
        return of_block(
            types,
            section.file,
            block.with_context(|| format!("the function {function}"))?,
        );
    }
    if words.contains_key("default") {
        return of_type(types, section.file, wrapped, &name);
    }
    if whole.contains_key("default") {
        let Some(block) = types.default_of(section.file, &section.item.ident.to_string()) else {
            return of_type(types, section.file, wrapped, &name);
        };
        let Some(Stmt::Expr(Expr::Struct(all), _)) = block.stmts.last() else {
            bail!("{}: a default that is no list of fields", section.path);
        };
        let value = all.fields.iter().find(|one| one.member.to_token_stream().to_string() == key);
        let value = value.with_context(|| format!("{}.{key}: no default", section.path))?;
        return written(types, section.file, block, &value.expr);
    }
    Ok(if wrapped == Wrapped::Optional { "none".into() } else { "required".into() })
}

/// The heading of fields that share a type.
fn title(path: &str, names: &[String], wrapped: Wrapped) -> String {
    let whole = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    let one = |name: &str| match wrapped {
        Wrapped::Many => format!("`[[{}]]`", whole(name)),
        _ => format!("`[{}]`", whole(name)),
    };
    match names {
        [first, .., _] if names.len() > 2 => format!("{} and the other rules", one(first)),
        names => names.iter().map(|name| one(name)).collect::<Vec<_>>().join(", "),
    }
}

fn render(types: &Types, section: &Section<'_>, out: &mut String) -> Result<()> {
    let Fields::Named(fields) = &section.item.fields else { bail!("{}: no fields", section.path) };
    let mut rows = String::new();
    let mut inner: Vec<(Wrapped, String, Vec<String>)> = Vec::new();
    for field in &fields.named {
        let words = serde(&field.attrs)?;
        if words.contains_key("skip") {
            continue;
        }
        let key = field.ident.as_ref().context("a field without a name")?.to_string();
        let place = || format!("{}.{key}", section.path);
        let (wrapped, name) = unwrap(&field.ty).with_context(place)?;
        let meaning = comment(&field.attrs);
        if name != "TablePattern" && types.structure(section.file, &name).is_some() {
            match inner.iter_mut().find(|(_, other, _)| *other == name) {
                Some((_, _, keys)) => keys.push(key.clone()),
                None => inner.push((wrapped, name.clone(), vec![key.clone()])),
            }
            // Rules have their levels as defaults.
            if name == "RuleConfig" {
                let default = default(types, section, field, &key).with_context(place)?;
                rows += &format!("| `{key}` | rule | {default} | | {} |\n", cell(&meaning));
            }
            continue;
        }
        let mut kind = kind(types, section.file, &name).with_context(place)?;
        if words.contains_key("deserialize_with") {
            kind = format!("{kind}, or a list");
        } else if wrapped == Wrapped::Many {
            kind = format!("list: {kind}");
        }
        let default = default(types, section, field, &key).with_context(place)?;
        let meaning = meaning + &values(types, section.file, &name);
        rows +=
            &format!("| `{key}` | {kind} | {default} | {} | {} |\n", unit(&key), cell(&meaning));
    }
    *out += &format!("## {}\n\n{}\n\n", section.title, comment(&section.item.attrs));
    if !rows.is_empty() {
        *out +=
            &format!("| Key | Value | Default | Unit | Meaning |\n|---|---|---|---|---|\n{rows}\n");
    }
    for (wrapped, name, keys) in inner {
        let (file, item) = types.structure(section.file, &name).context("it was there")?;
        let path = match section.path.as_str() {
            "" => keys[0].clone(),
            path => format!("{path}.{}", keys[0]),
        };
        let title = title(&section.path, &keys, wrapped);
        render(types, &Section { title, path, file, item }, out)?;
    }
    Ok(())
}

#[test]
fn every_key_of_the_configuration_is_there_with_its_default() -> Result<()> {
    let types = Types::read()?;
    let (file, item) = types.structure(0, "Config").context("there is no Config")?;
    let whole = Section { title: "At the top".into(), path: String::new(), file, item };
    let mut text = String::new();
    render(&types, &whole, &mut text)?;
    generated(PAGE, "keys", &text)
}
