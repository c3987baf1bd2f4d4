//! What can be seen to be wrong with a configuration before anything is connected to.

use cutover::login::Login;
use decoders::mysql::server::{ServerUrl, is_mysql_url};

use super::{ApplyConfig, BACK_SUFFIX, Config, DdlMode, NAME_BYTES_MAX};
use crate::engine::own::LANES_MAX;
use crate::protect::ProtectConfig;
use crate::secret::Secret;

/// Nearer to the tip than this, gulps and stream would only take turns.
const FAR_BEHIND_BYTES_MIN: u64 = 1 << 20;

impl Config {
    /// Everything that can be seen to be wrong without a connection.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || !self.name.chars().all(legal)
        {
            problems.push(format!(
                "name {:?}: 1 to {NAME_BYTES_MAX} lower-case letters, digits and underscores \
                 (it becomes part of the slot's name)",
                self.name
            ));
        }
        if self.name.ends_with(BACK_SUFFIX) {
            problems.push(format!(
                "name {:?}: {BACK_SUFFIX} at the end is for the way back of another pipeline",
                self.name
            ));
        }
        let blue = match self.mysql_urls() {
            Ok(Some([blue, _])) => {
                problems.extend(self.what_mysql_lacks());
                Some(Login::Mysql(blue))
            }
            Ok(None) => {
                let ends = [("blue", &self.blue), ("green", &self.green)];
                let [blue, green] = ends.map(|(side, endpoint)| endpoint.resolve(side));
                if self.apply.ddl != DdlMode::default() {
                    problems.push("apply.ddl: only for MySQL and MariaDB; take it out".into());
                }
                let login = blue.as_ref().ok().map(Login::from);
                problems.extend([blue.err(), green.err()].into_iter().flatten());
                login
            }
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        for sql in &self.watch.sql {
            let client = sql.url.as_deref().and_then(|url| Login::parse(url).ok());
            if let (Some(client), Some(blue)) = (client, &blue)
                && let Err(why) = client.must_be_of_the_engine_of(blue)
            {
                problems.push(format!("watch.sql {:?}.url: {why}", sql.name));
            }
        }
        if self.apply.memory_bytes < 4 << 20 {
            problems.push("apply.memory_bytes: at least 4 MiB (4194304)".into());
        }
        if self.apply.batch_bytes() > self.apply.memory_bytes / 2 {
            problems.push("apply.batch_bytes: not more than half of apply.memory_bytes".into());
        }
        if self.apply.far_behind_bytes < FAR_BEHIND_BYTES_MIN {
            problems.push("apply.far_behind_bytes: at least 1 MiB (1048576)".into());
        }
        if !(1..=LANES_MAX).contains(&self.apply.lanes) {
            problems.push(format!("apply.lanes: 1 to {LANES_MAX}"));
        }
        problems.extend(self.protect.problems(&self.copy));
        problems.extend(self.halt.problems());
        problems.extend(self.api.problems());
        problems.extend(self.alerts.problems());
        problems.extend(self.watch.problems());
        problems.extend(self.cutover.validate().err().map(|error| error.to_string()));
        if self.apply.batch_bytes() == 0 || self.apply.batch_transactions == 0 {
            problems.push("apply.batch_bytes and apply.batch_transactions: more than 0".into());
        }
        problems
    }

    /// What is configured and would have no effect between servers of MySQL or MariaDB.
    fn what_mysql_lacks(&self) -> impl Iterator<Item = String> {
        let [ours, default] = [&self.apply, &ApplyConfig::default()];
        let only_postgres = [
            ("[protect]", self.protect != ProtectConfig::default()),
            ("apply.reader", ours.reader != default.reader),
            ("apply.far_behind_bytes", ours.far_behind_bytes != default.far_behind_bytes),
            ("apply.binary", ours.binary != default.binary),
            ("apply.streaming", ours.streaming != default.streaming),
        ];
        let only_postgres = only_postgres.into_iter().filter(|(_, is_set)| *is_set);
        only_postgres.map(|(key, _)| {
            format!("{key}: there is no such thing but for PostgreSQL; take it out")
        })
    }

    /// Blue and green, if they are servers of MySQL or MariaDB.
    ///
    /// # Errors
    /// A sentence: one of them only is, or a URL is wrong.
    pub fn mysql_urls(&self) -> Result<Option<[ServerUrl; 2]>, String> {
        let sides = [("blue", &self.blue), ("green", &self.green)];
        // A connection string that can't be read is reported by whoever resolves it.
        let texts = sides.map(|(side, endpoint)| endpoint.text(side).unwrap_or_default());
        let [blue, green] = texts.each_ref().map(|text| is_mysql_url(text.0.trim()));
        if blue != green {
            return Err(
                "blue, green: PostgreSQL and MySQL or MariaDB can't be moved to one another".into(),
            );
        }
        if !blue {
            return Ok(None);
        }
        let [blue, green] = texts;
        let parse = |side: &str, text: &Secret| {
            ServerUrl::parse(&text.0).map_err(|error| format!("{side}.url: {error}"))
        };
        let urls = [parse("blue", &blue)?, parse("green", &green)?];
        match urls.each_ref().map(|url| url.database()) {
            [Some(blue), Some(green)] if blue != green => Err(format!(
                "blue, green: databases keep their names, and the URLs name {blue:?} and {green:?}"
            )),
            _ => Ok(Some(urls)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{ENDS, parse};

    #[test]
    fn all_problems_are_reported_at_once() {
        let text = format!(
            "name = 'Shop!'\n{ENDS}[api]\nlisten = '0.0.0.0:1'\n[apply]\nmemory_bytes = 1\nlanes = 0\nfar_behind_bytes = 1\n"
        );
        let problems = parse(&text).unwrap().problems();
        for part in [
            "name",
            "api.listen",
            "apply.memory_bytes",
            "apply.batch_bytes",
            "apply.lanes",
            "apply.far_behind_bytes",
        ] {
            assert!(
                problems.iter().any(|p| p.starts_with(part)),
                "{part} is missing in {problems:?}"
            );
        }
    }

    #[test]
    fn what_is_of_another_engine_is_refused() {
        const SERVERS: &str =
            "[blue]\nurl = 'mysql://u@b/shop'\n[green]\nurl = 'mysql://u@g/shop'\n";
        let problems = |ends: &str, more: &str| parse(&format!("{ends}{more}")).unwrap().problems();
        for (section, key, value) in [
            ("protect", "answer_ms_max", "5"),
            ("apply", "reader", "'stream'"),
            ("apply", "far_behind_bytes", "1048576"),
            ("apply", "binary", "'off'"),
            ("apply", "streaming", "'off'"),
        ] {
            let set = format!("[{section}]\n{key} = {value}\n");
            assert!(problems(ENDS, &set).is_empty(), "{set}");
            let found = problems(SERVERS, &set);
            assert!(found.len() == 1 && found[0].contains(section), "{found:?}");
        }
        let monitor = |url: &str| {
            format!("[[watch.sql]]\nname = 'shop'\naction = 'alert'\nquery = 'SELECT 1'\n{url}")
        };
        let at = |url: &str| monitor(&format!("url = '{url}'\n"));
        let leads_to = |ends: &str, url: &str| {
            let found = problems(ends, &at(url));
            found.iter().any(|one| one.contains("it leads to"))
        };
        for url in ["postgres://u@r/shop", "postgresql://u@r/shop", "host=r user=u dbname=shop"] {
            assert!(problems(ENDS, &at(url)).is_empty(), "{url}");
            assert!(leads_to(SERVERS, url), "{url}");
        }
        for url in ["mysql://u@r/shop", "mariadb://u@r/shop"] {
            assert!(problems(SERVERS, &at(url)).is_empty(), "{url}");
            assert!(leads_to(ENDS, url), "{url}");
        }
        let unreadable = "[blue]\nurl_file = '/none'\n[green]\nurl_file = '/none'\n";
        assert!(!leads_to(unreadable, "mysql://u@r/shop"));
        assert!(problems(SERVERS, &monitor("")).is_empty());
    }

    #[test]
    fn both_sides_are_of_one_family_and_databases_keep_their_names() {
        let of = |blue: &str, green: &str| {
            parse(&format!("[blue]\nurl = '{blue}'\n[green]\nurl = '{green}'\n")).unwrap()
        };
        let servers = of("mysql://u:hunter2@b/shop", "mariadb://u@g:3307/shop");
        assert!(servers.problems().is_empty(), "{:?}", servers.problems());
        assert_eq!(servers.mysql_urls().unwrap().unwrap()[1].database(), Some("shop"));
        assert!(parse(ENDS).unwrap().mysql_urls().unwrap().is_none());
        for (blue, green) in [
            ("mysql://u:hunter2@b/shop", "postgres://g/shop"),
            ("mysql://u:hunter2@b/shop", "mysql://u@g/other"),
            ("mysql://u:hunter2@b:port/shop", "mysql://u@g/shop"),
        ] {
            let problems = of(blue, green).problems();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(!problems[0].contains("hunter2"), "{problems:?}");
        }
    }
}
