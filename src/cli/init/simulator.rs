//! `init sim`: the services of a simulator that runs beside the bridge.

use super::{Places, Push, line, quoted, reachable, text};
use crate::cli::args::SimPorts;
use crate::cli::sim::DEFAULT_SENDER;
use crate::sim::config::CertificateConfig;
use crate::sim::v1::V1Config;
use crate::sim::{self, Prepared};
use anyhow::Context;
use std::net::SocketAddr;
use std::path::Path;

/// The app whose messages go by CCS where the simulator speaks both.
const CCS_APP: &str = "com.example.ccs";
/// A token that the simulator makes a phone of.
const PHONE: &str = "phone-1";

/// Makes the simulator's certificate and account, which the configuration has to name.
pub(super) fn push(ports: &SimPorts, places: &Places) -> anyhow::Result<Push> {
    let SimPorts { sim_listen, sim_fcm_listen, sim_fcm_token_listen, sim_control_listen } = ports;
    let folder = places.data.join("sim");
    let certificate = CertificateConfig { directory: Some(folder.clone()), ..CertificateConfig::default() };
    let v1 = V1Config { listen: *sim_fcm_listen, authority: *sim_fcm_token_listen, ..V1Config::default() };
    let prepared = sim::prepare(&certificate, &v1).context("the simulator's certificate and account")?;
    let first = format!(
        "fcm-mqtt-bridge sim --listen {sim_listen} --fcm-listen {sim_fcm_listen} --fcm-token-listen \
         {sim_fcm_token_listen} --control-listen {sim_control_listen} --tls-dir {}",
        quoted(&folder)
    );
    let sections = simulator(*sim_listen, &folder, prepared)?;
    Ok(Push { sections, first: Some(first), service: "the simulator", token: PHONE, other_app: Some(CCS_APP) })
}

/// The sections of both services of the simulator.
fn simulator(ccs: SocketAddr, folder: &Path, prepared: Prepared) -> anyhow::Result<String> {
    let ca_file = text(&folder.join("ca.pem"), "--config")?;
    let credentials = prepared.credentials_file.unwrap_or_else(|| folder.to_owned());
    let mut sections = format!(
        "# Pushes go by FCM HTTP v1, those of one app by CCS, which also brings what devices send.\n[transport]\ndefault = \
         \"fcm-v1\"\n\n[transport.categories]\n\"{CCS_APP}\" = \"ccs\"\n\n[fcm]\n"
    );
    line(&mut sections, "credentials_file", Some(&text(&credentials, "--config")?))?;
    line(&mut sections, "base_url", Some(&prepared.base_url))?;
    line(&mut sections, "ca_file", Some(&ca_file))?;
    sections.push_str(
        "# The simulator's phones have no app that confirms: `sent` is the last word.\napp_receipts = false\n",
    );
    sections.push_str("\n[ccs]\n");
    line(&mut sections, "host", Some(&reachable(ccs).ip().to_string()))?;
    line(&mut sections, "port", Some(&ccs.port()))?;
    line(&mut sections, "sender_id", Some(&DEFAULT_SENDER))?;
    sections.push_str("# The simulator takes any.\n");
    line(&mut sections, "api_key", Some(&"simulator"))?;
    line(&mut sections, "ca_file", Some(&ca_file))?;
    Ok(sections)
}
