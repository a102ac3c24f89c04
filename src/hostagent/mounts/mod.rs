//! Mount entries of type reverse-sshfs: directories of the host that the guest's sshfs reads from a server in here.

pub mod sftp;
