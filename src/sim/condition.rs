//! Expressions over topics: `'a' in topics && !('b' in topics || 'c' in topics)`.

/// Operators in one expression at most, as documented.
pub const MAX_OPERATORS: usize = 2;

/// Parentheses inside each other at most.
const MAX_DEPTH: usize = 8;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The device is subscribed to the topic; the name is in lower case, because names are compared without case.
    In(String),
    /// Both sides hold.
    And(Box<Self>, Box<Self>),
    /// One side holds.
    Or(Box<Self>, Box<Self>),
    /// The inner one does not hold.
    Not(Box<Self>),
}

/// The expression cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// Something else was expected at this byte.
    #[error("syntax error at byte {0}")]
    Syntax(usize),
    /// More operators than allowed.
    #[error("too many operators")]
    Operators,
}

impl Condition {
    /// Reads an expression. `&&` binds more tightly than `||`.
    ///
    /// # Errors
    /// When it is malformed or has too many operators.
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        Self::parse_with(text, MAX_OPERATORS)
    }

    /// Reads an expression of at most `most` operators.
    ///
    /// # Errors
    /// When it is malformed or has more operators.
    pub fn parse_with(text: &str, most: usize) -> Result<Self, ConditionError> {
        let mut parser = Parser { text, at: 0, operators: 0, most };
        let condition = parser.or(0)?;
        parser.skip_blanks();
        if parser.at == text.len() { Ok(condition) } else { Err(ConditionError::Syntax(parser.at)) }
    }

    /// Whether it holds for a device that is subscribed to the topics for which `subscribed` says so.
    pub fn holds(&self, subscribed: &impl Fn(&str) -> bool) -> bool {
        match self {
            Self::In(topic) => subscribed(topic),
            Self::And(left, right) => left.holds(subscribed) && right.holds(subscribed),
            Self::Or(left, right) => left.holds(subscribed) || right.holds(subscribed),
            Self::Not(inner) => !inner.holds(subscribed),
        }
    }

    /// The topics it names.
    pub fn topics(&self) -> Vec<&str> {
        match self {
            Self::In(topic) => vec![topic],
            Self::And(left, right) | Self::Or(left, right) => [left.topics(), right.topics()].concat(),
            Self::Not(inner) => inner.topics(),
        }
    }
}

/// Whether `name` can be a topic (`[a-zA-Z0-9-_.~%]+`).
pub fn is_topic(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    operators: usize,
    most: usize,
}

impl Parser<'_> {
    fn or(&mut self, depth: usize) -> Result<Condition, ConditionError> {
        let mut left = self.and(depth)?;
        while self.operator("||")? {
            left = Condition::Or(Box::new(left), Box::new(self.and(depth)?));
        }
        Ok(left)
    }

    fn and(&mut self, depth: usize) -> Result<Condition, ConditionError> {
        let mut left = self.term(depth)?;
        while self.operator("&&")? {
            left = Condition::And(Box::new(left), Box::new(self.term(depth)?));
        }
        Ok(left)
    }

    fn term(&mut self, depth: usize) -> Result<Condition, ConditionError> {
        if depth < MAX_DEPTH && self.take("!") {
            return Ok(Condition::Not(Box::new(self.term(depth + 1)?)));
        }
        if depth < MAX_DEPTH && self.take("(") {
            let inner = self.or(depth + 1)?;
            return if self.take(")") { Ok(inner) } else { Err(ConditionError::Syntax(self.at)) };
        }
        let quote = if self.take("'") { '\'' } else { '"' };
        if quote == '"' && !self.take("\"") {
            return Err(ConditionError::Syntax(self.at));
        }
        let rest = &self.text[self.at..];
        let name = rest.split(quote).next().unwrap_or_default();
        if !is_topic(name) || name.len() == rest.len() {
            return Err(ConditionError::Syntax(self.at));
        }
        self.at += name.len() + 1;
        if self.take("in") && self.take("topics") {
            Ok(Condition::In(name.to_ascii_lowercase()))
        } else {
            Err(ConditionError::Syntax(self.at))
        }
    }

    fn operator(&mut self, operator: &str) -> Result<bool, ConditionError> {
        let taken = self.take(operator);
        self.operators += usize::from(taken);
        if self.operators > self.most { Err(ConditionError::Operators) } else { Ok(taken) }
    }

    fn take(&mut self, word: &str) -> bool {
        self.skip_blanks();
        let found = self.text[self.at..].starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn skip_blanks(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holds(text: &str, topics: &[&str]) -> bool {
        Condition::parse(text).unwrap().holds(&|topic| topics.contains(&topic))
    }

    #[test]
    fn operators_bind_as_in_the_documents() {
        let text = "'a' in topics && ('b' in topics || 'c' in topics)";
        assert!(holds(text, &["a", "c"]));
        assert!(!holds(text, &["b", "c"]));
        assert!(holds("'a' in topics || 'b' in topics && 'c' in topics", &["a"]));
        assert!(holds("'Dogs' in topics", &["dogs"]));
        assert!(holds(" \"x-1\"in topics ", &["x-1"]));
        assert!(holds("'a' in topics && !('b' in topics)", &["a"]));
        assert!(!holds("'a' in topics && !('b' in topics)", &["a", "b"]));
        assert!(holds("!'b' in topics", &[]));
    }

    #[test]
    fn three_operators_are_too_many() {
        let text = ["'a' in topics"; 4].join(" || ");
        assert_eq!(Condition::parse(&text), Err(ConditionError::Operators));
    }

    proptest! {
        #[test]
        fn nothing_makes_the_parser_panic(text in "['a-b()&| intopcs\"é]{0,60}") {
            let _ = Condition::parse(&text);
        }

        #[test]
        fn a_cut_expression_is_refused(cut in 0usize..48) {
            let text = "('a' in topics && ('b' in topics || 'c' in topics))";
            prop_assert!(Condition::parse(&text[..cut]).is_err());
        }
    }
}
