//! Raw sockets against a real listener.
