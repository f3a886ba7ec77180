//! Keeps a topic in order when one of its publications fails: everything behind the failure fails as well, until the
//! publisher starts again. Pure; used by both broker.

use std::collections::HashSet;

/// Topics on which a publication failed and whose publisher has not resumed yet.
///
/// Memory: one entry per topic with a failure outstanding; the publisher bounds how many topics it works on.
#[derive(Debug, Default)]
pub struct Barrier {
    broken: HashSet<String>,
}

impl Barrier {
    /// Whether a publication may go out. If not, answer it [`super::Outcome::Unsent`].
    pub fn admits(&mut self, topic: &str, resume: bool) -> bool {
        if resume {
            self.broken.remove(topic);
        }
        // Most of the time nothing is broken; do not hash every topic for that.
        self.broken.is_empty() || !self.broken.contains(topic)
    }

    /// A publication of the topic failed.
    pub fn broke(&mut self, topic: &str) {
        if !self.broken.contains(topic) {
            self.broken.insert(topic.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Barrier;

    #[test]
    fn what_follows_a_failure_fails_until_the_publisher_resumes() {
        let mut barrier = Barrier::default();
        assert!(barrier.admits("a", false));
        barrier.broke("a");
        assert!(!barrier.admits("a", false));
        assert!(barrier.admits("b", false), "other topics are not concerned");
        assert!(barrier.admits("a", true));
        assert!(barrier.admits("a", false));
    }
}
