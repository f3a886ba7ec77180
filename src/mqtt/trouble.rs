//! What an operator is told of the broker: why it is not there, or what it refuses.

use tokio::sync::watch;

/// All that is wrong at one time, told in one sentence.
#[derive(Debug)]
pub(super) struct Trouble {
    told: watch::Sender<Option<String>>,
    away: Option<String>,
    filters: Option<String>,
    publication: Option<String>,
}

impl Trouble {
    pub(super) fn new(told: watch::Sender<Option<String>>) -> Self {
        Self { told, away: None, filters: None, publication: None }
    }

    /// There is no connection; what the last one refused counts no more.
    pub(super) fn away(&mut self, why: String) {
        (self.away, self.filters, self.publication) = (Some(why), None, None);
        self.tell();
    }

    /// There is one.
    pub(super) fn connected(&mut self) {
        self.away = None;
        self.tell();
    }

    /// Which subscriptions are refused; none of them: `None`.
    pub(super) fn filters(&mut self, refused: Option<String>) {
        self.filters = refused;
        self.tell();
    }

    /// What was refused to be published last; `None`: nothing is refused any more.
    pub(super) fn publication(&mut self, refused: Option<String>) {
        self.publication = refused;
        self.tell();
    }

    fn tell(&self) {
        let all: Vec<&str> =
            [&self.away, &self.filters, &self.publication].into_iter().flatten().map(|s| &**s).collect();
        let now = (!all.is_empty()).then(|| all.join("; "));
        self.told.send_if_modified(|told| std::mem::replace(told, now.clone()) != now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_subscription_is_told_until_it_is_granted_whatever_comes_and_goes_besides() {
        let (sender, told) = watch::channel(None);
        let told = || told.borrow().clone();
        let mut trouble = Trouble::new(sender);
        trouble.away("no route".into());
        assert_eq!(told().as_deref(), Some("no route"));
        trouble.connected();
        assert_eq!(told(), None);
        trouble.filters(Some("refused: a".into()));
        trouble.publication(Some("refused: b".into()));
        assert_eq!(told().as_deref(), Some("refused: a; refused: b"));
        trouble.publication(None);
        assert_eq!(told().as_deref(), Some("refused: a"));
        trouble.away("closed".into());
        assert_eq!(told().as_deref(), Some("closed"));
        trouble.connected();
        trouble.filters(None);
        assert_eq!(told(), None);
    }
}
