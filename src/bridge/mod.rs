//! The hall: the only place where the domain, the store, the front door and the back door meet.

mod brake;
mod lane;
mod order;
