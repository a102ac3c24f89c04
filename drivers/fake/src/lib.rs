//! A driver whose VM is a sleeping process. For tests only.
