//! Which BAL a device's message belongs to.

use super::id::Owner;
use std::collections::HashMap;

/// The way from an app's package name to a BAL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    by_category: HashMap<String, Owner>,
    default_bal: Option<Owner>,
}

impl Routes {
    /// `by_category` is asked first; `default_bal` gets what no category matches.
    pub fn new(by_category: HashMap<String, Owner>, default_bal: Option<Owner>) -> Self {
        Self { by_category, default_bal }
    }

    /// Every app that is named, and its BAL.
    pub fn categories(&self) -> impl Iterator<Item = (&str, &Owner)> {
        self.by_category.iter().map(|(category, bal)| (category.as_str(), bal))
    }

    /// Whether `category` is named.
    pub fn names(&self, category: &str) -> bool {
        self.by_category.contains_key(category)
    }

    /// Who gets what is not named.
    pub fn default_bal(&self) -> Option<&Owner> {
        self.default_bal.as_ref()
    }

    /// The BAL of `category`, the app's package name. `None` means that the message has to wait for a route.
    pub fn route(&self, category: Option<&str>) -> Option<&Owner> {
        category.and_then(|name| self.by_category.get(name)).or(self.default_bal.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Owner {
        Owner::new(name).unwrap()
    }

    fn routes(default_bal: Option<Owner>) -> Routes {
        let by_category =
            HashMap::from([("com.example.a".to_owned(), owner("bal1")), ("com.example.b".to_owned(), owner("bal2"))]);
        Routes::new(by_category, default_bal)
    }

    #[test]
    fn two_apps_go_to_two_bals_and_an_unknown_one_to_the_default() {
        let routes = routes(Some(owner("fallback")));
        assert_eq!(routes.route(Some("com.example.a")), Some(&owner("bal1")));
        assert_eq!(routes.route(Some("com.example.b")), Some(&owner("bal2")));
        assert_eq!(routes.route(Some("com.example.c")), Some(&owner("fallback")));
        assert_eq!(routes.route(None), Some(&owner("fallback")));
    }

    #[test]
    fn without_a_default_an_unknown_app_has_no_route() {
        let routes = routes(None);
        assert_eq!(routes.route(Some("com.example.b")), Some(&owner("bal2")));
        assert_eq!(routes.route(Some("com.example.c")), None);
        assert_eq!(routes.route(None), None);
    }
}
