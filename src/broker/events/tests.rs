use super::*;
use crate::broker::disk::Disk;
use crate::broker::link::{ChosenBy, Name};
use crate::broker::{BrokerLimits, engine};
use crate::chat::principal::Identity;
use crate::chat::principal::Role;
use crate::mqtt;

/// How sightings look to clients is tested from outside, in `tests/broker`; this end nobody can bring about from there.
#[tokio::test]
async fn a_connection_whose_task_is_cut_short_is_told_to_have_ended_once() {
    let (mut port, outlet) = mqtt::port(1, 1);
    let limits = BrokerLimits::default();
    let (disk, _) = Disk::open(None, engine::queues(&limits)).await.unwrap();
    let desk = Arc::new(engine::desk(disk, &limits, None));
    let link = Link::of(Identity { user: "alice".into(), role: Role::User }, Arc::clone(&desk.ledger));
    let (inbound, readers, sightings) = (outlet.inbound, outlet.readers, outlet.sightings);
    let refusals = Arc::new(Refusals::new(Arc::default()));
    let events = Events { desk, inbound, readers, sightings, refusals, stop: CancellationToken::new() };
    link.call(Name { client: "alice:phone".into(), chosen_by: ChosenBy::Client, device: Some("phone".into()) });

    events.vanished(&link);
    assert!(port.sightings.try_recv().is_err(), "it had not begun");
    events.tell(link.came()).await;
    let came = port.sightings.try_recv().unwrap();
    assert_eq!((&*came.user, &*came.client, came.change), ("alice", "alice:phone", Change::Came));
    assert_eq!(&*came.device, "phone");
    events.vanished(&link);
    assert_eq!(port.sightings.try_recv(), Ok(Sighting { change: Change::Broke, ..came }));
    events.vanished(&link);
    assert!(port.sightings.try_recv().is_err());
}
