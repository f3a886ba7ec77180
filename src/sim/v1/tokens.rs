//! The access tokens that were sold.

use crate::sim::fault::Dice;
use serde::Serialize;
use std::collections::VecDeque;

/// Tokens remembered; the oldest are forgotten first.
const MAX_TOKENS: usize = 256;

/// What an access token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grant {
    /// For messages.
    Messages,
    /// For something else.
    Other,
}

/// What is known of an access token, without the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenView {
    /// Counted from 1.
    pub number: u64,
    /// What it is good for.
    pub grant: Grant,
    /// When it expires, in Unix milliseconds.
    pub expires_at: u64,
    /// Whether it was taken back.
    pub revoked: bool,
    /// Requests that came with it.
    pub used: u64,
}

/// What a request's access token is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    Good,
    Expired,
    Unknown,
    Scope,
}

struct Token {
    text: Box<str>,
    view: TokenView,
}

/// All of them.
pub(super) struct Tokens {
    dice: Dice,
    sold: u64,
    tokens: VecDeque<Token>,
}

/// Without the tokens themselves.
impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("sold", &self.sold).finish_non_exhaustive()
    }
}

impl Tokens {
    pub(super) fn new(dice: Dice) -> Self {
        Self { dice, sold: 0, tokens: VecDeque::new() }
    }

    /// A new token, good until `expires_at`.
    pub(super) fn sell(&mut self, grant: Grant, expires_at: u64) -> String {
        self.sold += 1;
        // What Google's begin with.
        let text = format!("ya29.sim-{:016x}{:016x}", self.dice.any(), self.dice.any());
        if self.tokens.len() == MAX_TOKENS {
            self.tokens.pop_front();
        }
        let view = TokenView { number: self.sold, grant, expires_at, revoked: false, used: 0 };
        self.tokens.push_back(Token { text: text.as_str().into(), view });
        text
    }

    /// What `text` is worth at `now`.
    pub(super) fn check(&mut self, text: &str, now: u64) -> Worth {
        // The newest is the one in use.
        let Some(token) = self.tokens.iter_mut().rev().find(|token| *token.text == *text) else {
            return Worth::Unknown;
        };
        token.view.used += 1;
        match token.view {
            TokenView { revoked: true, .. } => Worth::Expired,
            TokenView { expires_at, .. } if expires_at <= now => Worth::Expired,
            TokenView { grant: Grant::Other, .. } => Worth::Scope,
            TokenView { .. } => Worth::Good,
        }
    }

    /// Takes all back. Gives how many were still good.
    pub(super) fn revoke(&mut self, now: u64) -> usize {
        let mut count = 0;
        for token in &mut self.tokens {
            count += usize::from(!token.view.revoked && token.view.expires_at > now);
            token.view.revoked = true;
        }
        count
    }

    pub(super) fn list(&self) -> Vec<TokenView> {
        self.tokens.iter().map(|token| token.view.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_until_it_expires_or_is_taken_back() {
        let mut tokens = Tokens::new(Dice::new(1, 1));
        let first = tokens.sell(Grant::Messages, 100);
        let other = tokens.sell(Grant::Other, 100);
        let worth =
            [tokens.check(&first, 99), tokens.check(&first, 100), tokens.check(&other, 0), tokens.check("x", 0)];
        assert_eq!(worth, [Worth::Good, Worth::Expired, Worth::Scope, Worth::Unknown]);
        let second = tokens.sell(Grant::Messages, 200);
        assert_ne!(first, second);
        assert_eq!(tokens.revoke(150), 1);
        assert_eq!(tokens.check(&second, 150), Worth::Expired);
        assert!(!format!("{tokens:?}").contains("ya29"));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut tokens = Tokens::new(Dice::new(1, 1));
        let first = tokens.sell(Grant::Messages, 100);
        for _ in 0..MAX_TOKENS {
            tokens.sell(Grant::Messages, 100);
        }
        assert_eq!((tokens.check(&first, 0), tokens.list().len()), (Worth::Unknown, MAX_TOKENS));
    }
}
