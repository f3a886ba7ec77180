//! The access rules: who may write and read which topic. Pure.
//!
//! | role | publish | subscribe |
//! | --- | --- | --- |
//! | BAL `b` | `b/self/#` | `b/others/#`, `$share/<name>/b/others/...`, `b/<anything but self>/#`, `+/self/presence`, `_bridge/status` |
//! | user `u` | `u/self/#` | `u/#`, `+/self/presence`, `+/self/profile`, `_bridge/status` |
//! | admin | `_bridge/commands` | `#` |
//! | anonymous (loopback only) | all but `+/others/#`, `_bridge/#` and `$...` | `#` |
