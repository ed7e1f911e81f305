//! The presets that come with efq.

const PRESETS: [(&str, &str); 6] = [
    ("high_accuracy", include_str!("../../presets/high_accuracy.yaml")),
    ("high_compression", include_str!("../../presets/high_compression.yaml")),
    ("medical_grade", include_str!("../../presets/medical_grade.yaml")),
    ("automotive_adas", include_str!("../../presets/automotive_adas.yaml")),
    ("balanced_production", include_str!("../../presets/balanced_production.yaml")),
    ("manufacturing_qc", include_str!("../../presets/manufacturing_qc.yaml")),
];

/// The names of the built-in presets.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// The YAML of the built-in preset `name`, a start for one's own.
pub fn builtin_text(name: &str) -> Option<&'static str> {
    find(name).map(|(_, text)| text)
}

/// Name and text of the built-in preset `name`.
pub(super) fn find(name: &str) -> Option<(&'static str, &'static str)> {
    PRESETS.into_iter().find(|(known, _)| *known == name)
}
