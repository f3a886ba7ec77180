//! `fcm-mqtt-bridge`: the command line.

fn main() {}
