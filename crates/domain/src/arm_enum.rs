//! Enumerations whose values have the names that Azure gives them.

/// Makes one: `ALL`, `arm_name`, `from_arm` and `Display`, and stored in snake case.
macro_rules! arm_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        // Without more words where Azure's name says it.
        #[allow(missing_docs)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// All of them.
            pub const ALL: [Self; [$(Self::$variant),*].len()] = [$(Self::$variant),*];

            /// As Azure spells it.
            pub fn arm_name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),* }
            }

            /// Reads Azure's spelling, whatever its case.
            pub fn from_arm(text: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|one| one.arm_name().eq_ignore_ascii_case(text))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.arm_name())
            }
        }
    };
}
pub(crate) use arm_enum;
