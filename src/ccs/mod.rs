//! CCS (XMPP over TLS with JSON inside), sans-IO: bytes, events and `now` go in; bytes, events and a deadline come out.
