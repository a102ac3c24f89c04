//! lima.yaml as types: Lima 2.2's whole schema, JSON names as Lima's.
//!
//! Every field is optional, because "not written" differs from "false" or "0" when documents are merged;
//! `null` counts as not written. Enumerations and addresses stay text here, so that all faults of a document can be
//! reported together; `limafs::config` checks them. Sizes are text such as `4GiB` (always 1024-based).
//! A *filled* configuration has a value in every field that has a default.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Blob;

macro_rules! schema {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident : $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$field_doc])* #[serde(skip_serializing_if = "Unset::is_unset")] pub $field: $type,)*
        }
    )*};
}

/// A field that was not written (and is not written back).
trait Unset {
    fn is_unset(&self) -> bool;
}

impl<T> Unset for Option<T> {
    fn is_unset(&self) -> bool {
        self.is_none()
    }
}

/// Free-form maps (`env`, `param`): Lima keeps them sorted.
pub type StringMap = BTreeMap<String, String>;

schema! {
    /// A lima.yaml.
    Config {
        minimum_lima_version: Option<String>,
        /// Consumed when the instance is created; empty in a stored document.
        #[serde(deserialize_with = "one_or_many")]
        #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Locators>"))]
        base: Option<Vec<Locator>>,
        /// `qemu`, `vz`, `wsl2`, or the name of an external driver.
        vm_type: Option<String>,
        /// Driver name to that driver's own options.
        vm_opts: Option<BTreeMap<String, serde_json::Value>>,
        os: Option<String>,
        arch: Option<String>,
        images: Option<Vec<Image>>,
        /// Deprecated: moved into `vmOpts.qemu.cpuType`.
        cpu_type: Option<StringMap>,
        cpus: Option<i64>,
        memory: Option<String>,
        disk: Option<String>,
        additional_disks: Option<Vec<Disk>>,
        mounts: Option<Vec<Mount>>,
        mount_types_unsupported: Option<Vec<String>>,
        mount_type: Option<String>,
        mount_inotify: Option<bool>,
        ssh: Option<Ssh>,
        firmware: Option<Firmware>,
        audio: Option<Audio>,
        video: Option<Video>,
        provision: Option<Vec<Provision>>,
        upgrade_packages: Option<bool>,
        containerd: Option<Containerd>,
        guest_install_prefix: Option<String>,
        probes: Option<Vec<Probe>>,
        port_forwards: Option<Vec<PortForward>>,
        copy_to_host: Option<Vec<CopyToHost>>,
        message: Option<String>,
        networks: Option<Vec<Network>>,
        env: Option<StringMap>,
        param: Option<StringMap>,
        dns: Option<Vec<String>>,
        host_resolver: Option<HostResolver>,
        propagate_proxy_env: Option<bool>,
        #[serde(rename = "caCerts")]
        ca_certs: Option<CaCerts>,
        /// Deprecated: moved into `vmOpts.vz.rosetta`.
        rosetta: Option<Rosetta>,
        plain: Option<bool>,
        timezone: Option<String>,
        nested_virtualization: Option<bool>,
        user: Option<User>,
        tpm: Option<bool>,
        os_opts: Option<BTreeMap<String, serde_json::Value>>,
    }

    /// Something to download or to copy: a URL or a path, checked against a digest.
    File {
        location: Option<String>,
        arch: Option<String>,
        /// `sha256:HEX`, `sha384:HEX` or `sha512:HEX`.
        digest: Option<String>,
    }

    Image {
        location: Option<String>,
        arch: Option<String>,
        digest: Option<String>,
        kernel: Option<Kernel>,
        initrd: Option<File>,
        variant: Option<String>,
        arch_variant: Option<String>,
    }

    Kernel {
        location: Option<String>,
        arch: Option<String>,
        digest: Option<String>,
        cmdline: Option<String>,
    }

    Mount {
        location: Option<String>,
        mount_point: Option<String>,
        writable: Option<bool>,
        sshfs: Option<Sshfs>,
        #[serde(rename = "9p")]
        nine_p: Option<NineP>,
        virtiofs: Option<Virtiofs>,
    }

    Sshfs {
        cache: Option<bool>,
        follow_symlinks: Option<bool>,
        sftp_driver: Option<String>,
    }

    NineP {
        security_model: Option<String>,
        protocol_version: Option<String>,
        msize: Option<String>,
        cache: Option<String>,
    }

    Virtiofs {
        queue_size: Option<i64>,
    }

    Ssh {
        local_port: Option<i64>,
        #[serde(rename = "loadDotSSHPubKeys")]
        load_dot_ssh_pub_keys: Option<bool>,
        forward_agent: Option<bool>,
        forward_x11: Option<bool>,
        forward_x11_trusted: Option<bool>,
        over_vsock: Option<bool>,
    }

    Firmware {
        #[serde(rename = "legacyBIOS")]
        legacy_bios: Option<bool>,
        images: Option<Vec<FirmwareImage>>,
    }

    FirmwareImage {
        location: Option<String>,
        arch: Option<String>,
        digest: Option<String>,
        vm_type: Option<String>,
    }

    Audio {
        device: Option<String>,
        interface: Option<String>,
    }

    Video {
        display: Option<String>,
        vnc: Option<Vnc>,
    }

    Vnc {
        display: Option<String>,
    }

    Provision {
        /// `system` (default), `user`, `boot`, `dependency`, `data`, `yq`, `ansible`.
        mode: Option<String>,
        #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
        script: Option<Blob>,
        file: Option<Locator>,
        skip_default_dependency_resolution: Option<bool>,
        playbook: Option<String>,
        #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
        content: Option<Blob>,
        overwrite: Option<bool>,
        owner: Option<String>,
        path: Option<String>,
        /// Octal digits.
        permissions: Option<String>,
        expression: Option<String>,
        format: Option<String>,
    }

    Containerd {
        system: Option<bool>,
        user: Option<bool>,
        archives: Option<Vec<File>>,
    }

    Probe {
        mode: Option<String>,
        description: Option<String>,
        #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
        script: Option<Blob>,
        file: Option<Locator>,
        hint: Option<String>,
    }

    PortForward {
        #[serde(rename = "guestIPMustBeZero")]
        guest_ip_must_be_zero: Option<bool>,
        #[serde(rename = "guestIP")]
        guest_ip: Option<String>,
        guest_port: Option<i64>,
        guest_port_range: Option<[i64; 2]>,
        guest_socket: Option<String>,
        #[serde(rename = "hostIP")]
        host_ip: Option<String>,
        host_port: Option<i64>,
        host_port_range: Option<[i64; 2]>,
        host_socket: Option<String>,
        /// `tcp`, `udp` or `any` (default).
        proto: Option<String>,
        reverse: Option<bool>,
        ignore: Option<bool>,
        #[serde(rename = "static")]
        is_static: Option<bool>,
    }

    CopyToHost {
        guest: Option<String>,
        host: Option<String>,
        skip_if_missing: Option<bool>,
        delete_on_stop: Option<bool>,
    }

    Network {
        lima: Option<String>,
        socket: Option<String>,
        #[serde(rename = "vzNAT")]
        vz_nat: Option<bool>,
        mac_address: Option<String>,
        interface: Option<String>,
        metric: Option<i64>,
    }

    HostResolver {
        enabled: Option<bool>,
        ipv6: Option<bool>,
        hosts: Option<StringMap>,
    }

    CaCerts {
        remove_defaults: Option<bool>,
        files: Option<Vec<String>>,
        certs: Option<Vec<String>>,
    }

    Rosetta {
        enabled: Option<bool>,
        #[serde(rename = "binfmt")]
        bin_fmt: Option<bool>,
    }

    /// The user that is made in the guest.
    User {
        name: Option<String>,
        comment: Option<String>,
        home: Option<String>,
        shell: Option<String>,
        uid: Option<u32>,
        passwordless_sudo: Option<bool>,
    }
}

/// An additional disk; a bare string is its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs_args: Option<Vec<String>>,
}

/// Where another document is: a bare string is its `url`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Locator {
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl<'de> Deserialize<'de> for Disk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Fields {
            name: String,
            format: Option<bool>,
            fs_type: Option<String>,
            fs_args: Option<Vec<String>>,
        }
        Ok(match deserializer.deserialize_any(text_or("a disk's name or a map"))? {
            TextOr::Text(name) => Self { name, ..Self::default() },
            TextOr::Map(Fields { name, format, fs_type, fs_args }) => Self { name, format, fs_type, fs_args },
        })
    }
}

impl<'de> Deserialize<'de> for Locator {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Fields {
            url: String,
            digest: Option<String>,
        }
        Ok(match deserializer.deserialize_any(text_or("a URL or a map"))? {
            TextOr::Text(url) => Self { url, digest: None },
            TextOr::Map(Fields { url, digest }) => Self { url, digest },
        })
    }
}

/// A value that may be written in short as text. Not `serde(untagged)`: that buffers, and a deserializer that
/// watches for unknown keys would not be asked to ignore them.
enum TextOr<T> {
    Text(String),
    Map(T),
}

struct TextOrVisitor<T> {
    expected: &'static str,
    map: PhantomData<T>,
}

fn text_or<T>(expected: &'static str) -> TextOrVisitor<T> {
    TextOrVisitor { expected, map: PhantomData }
}

impl<'de, T: Default + Deserialize<'de>> Visitor<'de> for TextOrVisitor<T> {
    type Value = TextOr<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(TextOr::Text(text.to_owned()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(TextOr::Map(T::default()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Map)
    }
}

/// `base` may be one locator or a list of them.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Locator>>, D::Error> {
    struct OneOrMany;

    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Option<Vec<Locator>>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a URL, a map or a list of them")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E: de::Error>(self, url: &str) -> Result<Self::Value, E> {
            Ok(Some(vec![Locator { url: url.to_owned(), digest: None }]))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Ok(Some(vec![Locator::deserialize(MapAccessDeserializer::new(map))?]))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list)).map(Some)
        }
    }

    deserializer.deserialize_any(OneOrMany)
}
