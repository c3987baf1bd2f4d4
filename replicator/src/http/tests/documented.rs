//! `docs/reference/api.md` is what the router is built from.

use tests::documents::generated;

use super::*;

#[test]
fn every_route_is_in_its_page() -> anyhow::Result<()> {
    let mut text = "| Method | Path | Role | In the audit log |\n|---|---|---|---|\n".to_owned();
    for route in table(MetricsAccess::Read) {
        let role = route.needs.map_or("none", Role::name);
        let acts = if route.acts { "yes" } else { "" };
        text += &format!("| {} | `{}` | {role} | {acts} |\n", route.method, route.path);
    }
    generated("docs/reference/api.md", "routes", &text)
}
