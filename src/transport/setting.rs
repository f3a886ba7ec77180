//! What is checked of the settings of every transport.

/// A setting has no value, or one that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {problem}")]
pub struct SettingError {
    /// Its key in the section of the transport.
    pub setting: &'static str,
    /// The rest of the sentence that begins with the setting.
    pub problem: String,
}

/// Finds the first number that is not from 1 to its limit, among names, values and limits.
pub(super) fn within(numbers: &[(&'static str, usize, usize)]) -> Result<(), SettingError> {
    let wrong = numbers.iter().find(|(_, value, max)| !(1..=*max).contains(value));
    wrong.map_or(Ok(()), |(setting, _, max)| Err(SettingError::new(setting, format!("is not from 1 to {max}"))))
}

impl SettingError {
    pub(super) fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }
}
