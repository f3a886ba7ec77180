//! A broker that does what a test says, packet by packet: for what mosquitto does not do, or not when told to.

use crate::harness::soon;
use bytes::BytesMut;
use rumqttc_v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectReturnCode, Packet, PubAck, PubAckReason, Publish, SubAck,
    SubscribeReasonCode,
};
use rumqttc_v5::{Error, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Scripted {
    listener: TcpListener,
}

impl Scripted {
    pub(crate) async fn listen() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://{}", self.listener.local_addr().unwrap())
    }

    pub(crate) async fn accept(&self) -> Link {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        Link { stream, read: BytesMut::new() }
    }

    /// Accepts, and grants what is asked.
    pub(crate) async fn welcome(&self, connack: ConnAck) -> Link {
        let mut link = self.accept().await;
        link.connect(connack).await;
        link.grant().await;
        link
    }
}

/// A CONNACK that says yes.
pub(crate) fn connack(session_present: bool) -> ConnAck {
    ConnAck { session_present, code: ConnectReturnCode::Success, properties: None }
}

/// One that says more.
pub(crate) fn connack_with(change: impl FnOnce(&mut ConnAckProperties)) -> ConnAck {
    let mut properties = ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    };
    change(&mut properties);
    ConnAck { properties: Some(properties), ..connack(false) }
}

/// The broker's end of a connection.
pub(crate) struct Link {
    stream: TcpStream,
    read: BytesMut,
}

impl Link {
    /// The next packet; none when the connection is closed.
    pub(crate) async fn packet(&mut self) -> Option<Packet> {
        soon(async {
            loop {
                match Packet::read(&mut self.read, None) {
                    Ok(packet) => return Some(packet),
                    Err(Error::InsufficientBytes(_)) => {}
                    Err(error) => panic!("the client sent rubbish: {error}"),
                }
                if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        })
        .await
    }

    pub(crate) async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn connect(&mut self, connack: ConnAck) -> Connect {
        let Some(Packet::Connect(connect, ..)) = self.packet().await else { panic!("no CONNECT") };
        self.send(Packet::ConnAck(connack)).await;
        connect
    }

    /// Reads a SUBSCRIBE and grants all of it.
    pub(crate) async fn grant(&mut self) {
        let (pkid, filters) = self.subscribe().await;
        self.suback(pkid, vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); filters]).await;
    }

    /// Reads a SUBSCRIBE: its packet id and the number of its filters.
    pub(crate) async fn subscribe(&mut self) -> (u16, usize) {
        match self.packet().await {
            Some(Packet::Subscribe(subscribe)) => (subscribe.pkid, subscribe.filters.len()),
            other => panic!("no SUBSCRIBE but {other:?}"),
        }
    }

    pub(crate) async fn suback(&mut self, pkid: u16, return_codes: Vec<SubscribeReasonCode>) {
        self.send(Packet::SubAck(SubAck { pkid, return_codes, properties: None })).await;
    }

    pub(crate) async fn published(&mut self) -> Publish {
        match self.packet().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("no PUBLISH but {other:?}"),
        }
    }

    pub(crate) async fn puback(&mut self, pkid: u16, reason: PubAckReason) {
        self.send(Packet::PubAck(PubAck { pkid, reason, properties: None })).await;
    }

    /// Publishes to the client with QoS 1.
    pub(crate) async fn publish(&mut self, pkid: u16, payload: &str) {
        let mut publish = Publish::new("bal/self/messages", QoS::AtLeastOnce, payload.to_owned(), None);
        publish.pkid = pkid;
        self.send(Packet::Publish(publish)).await;
    }

    pub(crate) async fn acknowledged(&mut self) -> (u16, PubAckReason) {
        match self.packet().await {
            Some(Packet::PubAck(ack)) => (ack.pkid, ack.reason),
            other => panic!("no PUBACK but {other:?}"),
        }
    }
}
