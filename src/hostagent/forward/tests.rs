//! Forwards against a guest in this process: a real ssh session, a pretend agent, real sockets. What listens in the guest
//! has 127.0.0.2, the host 127.0.0.1.

mod agent;
mod hostile;
mod own;
mod ssh;
mod tcp;
mod udp;
mod world;
