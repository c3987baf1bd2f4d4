//! Colours, or none.

/// Wraps text into ANSI colours where they are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// With colours or without.
    pub fn new(on: bool) -> Self {
        Self { on }
    }

    /// No colours.
    #[cfg(test)]
    pub fn none() -> Self {
        Self::new(false)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What matters most.
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// As it should be.
    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// Somebody should know.
    pub fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    /// Wrong.
    pub fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }
}
