//! Nothing starts before a person has typed the name of the database that it is about.

use std::io::{self, BufRead, IsTerminal, Write};

use super::failure::Failure;

/// What `--yes` puts on record in the place of a typed name.
pub const YES: &str = "--yes";

/// Refuses early where nobody can be asked.
pub fn ensure_possible(yes: bool) -> Result<(), Failure> {
    if yes || (io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(());
    }
    Err(Failure::usage(
        "nobody can be asked: this is not a terminal",
        "confirmation",
        "add --yes, after reading the output of: cutover plan",
    ))
}

/// Asks for the name of the blue database on the terminal and gives back what goes on record.
pub fn ask(database: &str) -> Result<String, Failure> {
    ask_on(&mut io::stdin().lock(), &mut io::stderr().lock(), database)
}

fn ask_on(
    answers: &mut impl BufRead,
    questions: &mut impl Write,
    database: &str,
) -> Result<String, Failure> {
    let refuse = |what: String| {
        Err(Failure::usage(what, "confirmation", "run the same command again, or: cutover plan"))
    };
    let asked = write!(questions, "Type the blue database name to continue ({database}): ")
        .and_then(|()| questions.flush());
    let mut answer = String::new();
    match asked.and_then(|()| answers.read_line(&mut answer)) {
        Ok(0) => refuse("there was no answer".into()),
        Ok(_) if answer.trim_end_matches(['\n', '\r']).trim() == database.trim() => {
            Ok(database.to_owned())
        }
        Ok(_) => refuse(format!("the answer is not {database}")),
        Err(error) => refuse(format!("the terminal can't be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask_with(answer: &str) -> Result<String, Failure> {
        ask_on(&mut answer.as_bytes(), &mut Vec::new(), "shop")
    }

    #[test]
    fn only_the_name_is_a_yes() {
        assert_eq!(ask_with("shop\n").unwrap(), "shop");
        assert_eq!(ask_with(" shop \r\n").unwrap(), "shop");
        for answer in ["", "\n", "y\n", "yes\n", "Shop\n", "shop2\n", "--yes\n"] {
            let refused = ask_with(answer).unwrap_err();
            assert_eq!(refused.exit, super::super::Exit::Usage, "{answer:?}");
        }
    }
}
