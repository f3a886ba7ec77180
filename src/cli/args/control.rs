//! What commands to a running bridge can be asked for.

use super::StoreArgs;
use clap::{Args, Subcommand};

/// What `device` does.
#[derive(Debug, Subcommand)]
pub enum DeviceAction {
    /// Lists the devices of a user that have a token, with the hash of it.
    List {
        /// The chat user.
        user: String,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Takes the registration of a device back: it is pushed no more until it registers again.
    Forget {
        /// The chat user.
        user: String,
        /// The device.
        dev: String,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Which transports a command is about.
#[derive(Debug, Args)]
pub struct SendingArgs {
    /// Only this one: `ccs`, `fcm-v1` or `fcm-v1:NAME`. Without it all of them.
    #[arg(long, value_name = "TRANSPORT")]
    pub transport: Option<String>,
    /// Where the store is.
    #[command(flatten)]
    pub store: StoreArgs,
}
