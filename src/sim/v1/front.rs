//! What becomes of a request: the steps of the real front in their order. Sans-IO: a request, the shared [`Service`], dice
//! and `now` go in; an answer and how it is to be given come out.

use super::draft::Draft;
use super::fault::{RetryAfter, Shape};
use super::fault_kind::FaultKind;
use super::quota::{Exceeded, Whose};
use super::reply::Reply;
use super::script::Script;
use super::tokens::Worth;
use crate::sim::event::SimEvent;
use crate::sim::fault::Dice;
use crate::sim::service::Service;
use crate::sim::virtual_devices::{Mode, Push, Refusal, Target};

/// A request that was read whole.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// `:authority` (or `host`).
    pub(super) authority: Option<&'a str>,
    /// The header of that name.
    pub(super) authorization: Option<&'a str>,
    /// `None` if it was too big.
    pub(super) body: Option<&'a [u8]>,
}

/// How an answer is to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Manner {
    /// As it is.
    Whole(Reply),
    /// The stream is reset after the first half of the body.
    Cut(Reply),
    /// The stream is reset.
    ResetStream,
    /// The stream is refused as if it had not been looked at.
    RefuseStream,
    /// The connection is reset.
    ResetConnection,
    /// The connection is told to go, this stream being beyond the last one.
    Goaway,
    /// Never.
    Silence,
}

/// An answer and when it is to be given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) manner: Manner,
    pub(super) delay_ms: u64,
}

/// Does what a request asks for.
pub(super) fn answer(service: &mut Service, ask: &Ask<'_>, dice: &mut Dice, now: u64) -> Answer {
    service.v1.stats.requests += 1;
    let latency = service.v1.faults.latency(dice);
    let (manner, delay_ms) = match admit(service, ask, now) {
        Ok(body) => sent(service, body, latency, dice, now),
        Err(reply) => (Manner::Whole(reply), 0),
    };
    if let Manner::Whole(reply) | Manner::Cut(reply) = &manner {
        service.v1.stats.answer(reply.status);
    }
    Answer { manner, delay_ms: latency.saturating_add(delay_ms) }
}

/// The body, if the request comes to the right place with the right to be there.
fn admit<'a>(service: &mut Service, ask: &Ask<'a>, now: u64) -> Result<&'a [u8], Reply> {
    let v1 = &mut service.v1;
    if ask.authority.is_none_or(str::is_empty) {
        v1.stats.violations.authority += 1;
        return Err(Reply::no_path());
    }
    let project = ask.path.strip_prefix("/v1/projects/").and_then(|rest| rest.strip_suffix("/messages:send"));
    let (Some(project), "POST") = (project, ask.method) else {
        return Err(Reply::no_path());
    };
    let Some(body) = ask.body else {
        return Err(of(FaultKind::TooLarge));
    };
    let shape = v1.faults.unauthorized;
    let bearer = ask.authorization.and_then(|header| header.strip_prefix("Bearer "));
    let Some(bearer) = bearer else {
        return Err(Reply::unauthorized(shape, "CREDENTIALS_MISSING"));
    };
    match v1.tokens.check(bearer, now) {
        Worth::Good if *project == *v1.project => Ok(body),
        Worth::Good => Err(of(FaultKind::NoProject)),
        Worth::Expired => Err(Reply::unauthorized(shape, "ACCESS_TOKEN_EXPIRED")),
        Worth::Unknown => Err(Reply::unauthorized(shape, "ACCESS_TOKEN_TYPE_UNSUPPORTED")),
        Worth::Scope => Err(Reply::scope_insufficient()),
    }
}

/// What becomes of a body, and how much later than after `latency` that is told.
fn sent(service: &mut Service, body: &[u8], latency: u64, dice: &mut Dice, now: u64) -> (Manner, u64) {
    if let Err(exceeded) = service.v1.quota.check_project(now) {
        return (Manner::Whole(too_many(service, exceeded, now)), 0);
    }
    let draft = match Draft::check(body) {
        Ok(draft) => draft,
        Err(reply) => {
            service.v1.quota.count_project(now);
            return (Manner::Whole(reply), 0);
        }
    };
    let script = script(service, &draft, dice);
    let kind = script.kind;
    if kind != FaultKind::Accept {
        service.v1.stats.count_fault(kind);
    }
    let own = Reply::of(kind, draft.field).map(|reply| reply.retry(script.retry_after, now));
    let reply = if kind.is_taken() {
        let answered_at = now.saturating_add(latency).saturating_add(script.delay_ms);
        match take(service, &draft, answered_at, dice, now) {
            Ok(reply) => own.unwrap_or(reply),
            Err(reply) => {
                count(service, &reply, now);
                return (Manner::Whole(reply), script.delay_ms);
            }
        }
    } else {
        own.unwrap_or_else(|| of(FaultKind::Internal))
    };
    count(service, &reply, now);
    (manner(kind, reply), script.delay_ms)
}

/// How what goes wrong is told.
fn manner(kind: FaultKind, reply: Reply) -> Manner {
    match kind {
        FaultKind::ResetStream | FaultKind::AcceptResetStream => Manner::ResetStream,
        FaultKind::ResetConnection | FaultKind::AcceptResetConnection => Manner::ResetConnection,
        FaultKind::Silence | FaultKind::AcceptSilence => Manner::Silence,
        FaultKind::RefuseStream => Manner::RefuseStream,
        FaultKind::Goaway => Manner::Goaway,
        FaultKind::AcceptCut => Manner::Cut(reply),
        _ => Manner::Whole(reply),
    }
}

/// What is to go wrong: as the token says, or else the device, or else the plan.
fn script(service: &mut Service, draft: &Draft, dice: &mut Dice) -> Script {
    let target = draft.target_text();
    let plain = |kind| Script { kind, retry_after: RetryAfter::Absent, delay_ms: 0 };
    Script::of(target)
        .or_else(|| {
            let word = service.devices.take_refusal(target)?;
            // A word of CCS, or one that nobody knows.
            Some(plain(FaultKind::of(&word).unwrap_or(FaultKind::UnspecifiedError)))
        })
        .or_else(|| service.v1.faults.take(target, dice))
        .unwrap_or_else(|| plain(FaultKind::Accept))
}

/// Takes a message, or refuses it for what is known of its device.
fn take(service: &mut Service, draft: &Draft, answered_at: u64, dice: &mut Dice, now: u64) -> Result<Reply, Reply> {
    let id = format!("0:{:016}%{:016x}", now.saturating_mul(1_000), dice.any());
    let push = Push { target: draft.target.clone(), message: draft.message(&id, now, answered_at), mode: draft.mode };
    let check = Push { mode: Mode::DryRun, ..push.clone() };
    service.push(&check, now).map_err(|refusal| refused(&refusal, draft))?;
    let project = service.v1.project.clone();
    if draft.mode == Mode::DryRun {
        service.v1.stats.validated += 1;
        return Ok(Reply::sent(&project, "fake_message_id"));
    }
    if let Target::Token(token) = &draft.target
        && let Err(exceeded) = service.v1.quota.take_device(token, now)
    {
        return Err(too_many(service, exceeded, now));
    }
    let message_id = push.message.id.clone();
    match hold(service, draft, push, now) {
        Some(push) => drop(service.push(&push, now).map_err(|refusal| refused(&refusal, draft))?),
        None => service.v1.stats.held_back += 1,
    }
    service.v1.stats.accepted += 1;
    service.tell(|| SimEvent::Taken { message_id });
    Ok(Reply::sent(&project, &id))
}

/// Gives a message back unless it is collapsible and beyond the burst of its device.
fn hold(service: &mut Service, draft: &Draft, push: Push, now: u64) -> Option<Push> {
    match (&draft.target, &draft.collapse) {
        (Target::Token(token), Some(collapse)) => service.v1.quota.hold(token, collapse, push, now),
        _ => Some(push),
    }
}

fn refused(refusal: &Refusal, draft: &Draft) -> Reply {
    let kind = match refusal {
        Refusal::BadToken => FaultKind::InvalidRegistration,
        Refusal::Unregistered => FaultKind::Unregistered,
        Refusal::Full => FaultKind::Unavailable,
        Refusal::Ordered(word) => FaultKind::of(word).unwrap_or(FaultKind::UnspecifiedError),
    };
    Reply::of(kind, draft.field).unwrap_or_else(|| of(FaultKind::Internal))
}

fn too_many(service: &Service, exceeded: Exceeded, now: u64) -> Reply {
    let kind = match exceeded.whose {
        Whose::Project => FaultKind::ProjectQuota,
        Whose::Device => FaultKind::DeviceQuota,
    };
    let left = RetryAfter::Seconds(exceeded.wait_ms.div_ceil(1_000));
    of(kind).retry(service.v1.faults.quota_retry_after.unwrap_or(left), now)
}

/// Counts a message for the project's quota; 429 is the one answer that costs nothing.
fn count(service: &mut Service, reply: &Reply, now: u64) {
    if reply.status != 429 {
        service.v1.quota.count_project(now);
    }
}

/// The answer to a request with this fault. All that are named here have one.
fn of(kind: FaultKind) -> Reply {
    Reply::of(kind, "message.token").unwrap_or_else(|| Reply::unauthorized(Shape::Page, ""))
}

#[cfg(test)]
mod tests;
