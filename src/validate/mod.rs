//! stub
use serde::{Deserialize, Serialize};
use crate::error::Result;
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Measure { Accuracy, Perplexity, Changed, Cosine }
impl Measure { pub fn title(self) -> &'static str { "loss" } pub fn unit(self) -> &'static str { "%" } }
#[derive(Debug, Clone, Copy)]
pub enum Label<'a> { None, Class(i64), Positions(&'a [i64]) }
pub struct Sample<'a> { pub reference: &'a [f32], pub candidate: &'a [f32], pub width: usize, pub mask: Option<&'a [bool]>, pub label: Label<'a> }
#[derive(Debug, Clone, Copy, Default)]
pub struct Score { pub se: f64, pub sr: f64 }
pub fn score(s: &Sample) -> Result<Score> { let mut x=Score::default(); for (i,(a,b)) in s.reference.iter().zip(s.candidate).enumerate() { if s.mask.is_none_or(|m| m[i/s.width]) { x.se+=f64::from(a-b).powi(2); x.sr+=f64::from(*a).powi(2);} } Ok(x) }
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval { pub low: f64, pub high: f64 }
pub struct Gate { pub accuracy_target: f64, pub min_cosine: f64, pub by_interval: bool }
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Outcome { Passed, Failed, Undecided, NotVerified }
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict { pub measure: Measure, pub estimate: f64, pub interval: Option<Interval>, pub target: f64, pub samples: usize, pub outcome: Outcome, pub samples_needed: Option<u64>, pub reason: String, pub rel_l2: f64, pub cosine: f64, pub kl: Option<f64>, pub changed: Option<f64>, pub accuracy: Option<(f64,f64)>, pub perplexity: Option<(f64,f64)> }
pub fn verdict(measure: Measure, scores: &[Score], gate: &Gate, _real: bool) -> Verdict { let (e,r)=scores.iter().fold((0.0,0.0),|a,s|(a.0+s.se,a.1+s.sr)); Verdict{measure,estimate:0.0,interval:None,target:gate.accuracy_target,samples:scores.len(),outcome:Outcome::Undecided,samples_needed:None,reason:"stub".into(),rel_l2:(e/r).sqrt(),cosine:0.0,kl:None,changed:None,accuracy:None,perplexity:None} }
