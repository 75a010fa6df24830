use proptest::prelude::*;

use super::*;

fn candidate(bytes: u64, damage: f64, label: usize) -> Candidate {
    Candidate { bytes, damage, label }
}

/// The least damage of all choices within the budget, by trying them.
fn brute_force(tensors: &[Vec<Candidate>], budget: u64) -> Option<f64> {
    let Some((first, others)) = tensors.split_first() else { return Some(0.0) };
    let of = |candidate: &Candidate| {
        let left = budget.checked_sub(candidate.bytes)?;
        Some(candidate.damage + brute_force(others, left)?)
    };
    first.iter().filter_map(of).min_by(f64::total_cmp)
}

#[test]
fn hulls_have_what_some_multiplier_chooses() {
    let candidates = [(4, 3.0), (1, 9.0), (2, 8.5), (3, 4.0), (3, 5.0), (6, 1.0), (7, 1.0), (5, 4.5)];
    let candidates: Vec<Candidate> =
        candidates.into_iter().map(|(bytes, damage)| candidate(bytes, damage, 0)).collect();
    assert_eq!(hull(&candidates), [1, 3, 0, 5]);
    assert_eq!(hull(&candidates[..1]), [0]);
}

#[test]
fn what_cannot_be_is_said_with_the_smallest_size() {
    let tensors = vec![vec![candidate(5, 1.0, 0), candidate(3, 2.0, 1)], vec![candidate(7, 1.0, 0)]];
    assert_eq!(allocate(&tensors, 9), Err(AllocateError::Infeasible { budget: 9, smallest: 10 }));
    assert_eq!(allocate(&tensors, 10).unwrap().choices, [1, 0]);
    assert_eq!(allocate(&[vec![], vec![]], 9), Err(AllocateError::NoCandidates { tensor: 0 }));
    let error = allocate(&[vec![candidate(1, 1.0, 0), candidate(1, f64::NAN, 0)]], 9).unwrap_err();
    assert!(matches!(error, AllocateError::Damage { tensor: 0, candidate: 1, .. }), "{error}");
    let nothing = allocate(&[], 0).unwrap();
    assert_eq!((nothing.bytes, nothing.damage, nothing.exact), (0, 0.0, true));
    let huge = vec![vec![candidate(u64::MAX, 1.0, 0)]; 2];
    assert!(matches!(allocate(&huge, u64::MAX - 1), Err(AllocateError::Infeasible { smallest: u64::MAX, .. })));
}

#[test]
fn the_leftovers_go_where_a_byte_gains_most() {
    // The hulls stop at 4 bytes of the first, which leaves 3: enough for the candidate of the second that is on no hull.
    let tensors = vec![
        vec![candidate(1, 10.0, 0), candidate(4, 1.0, 1), candidate(14, 0.0, 2)],
        vec![candidate(1, 4.0, 0), candidate(4, 3.5, 1), candidate(8, 0.0, 2)],
    ];
    let (mut swept, _) = sweep(&tensors, 8);
    assert_eq!((&swept.choices[..], swept.bytes), (&[1, 0][..], 5));
    fill(&tensors, 8, &mut swept);
    assert_eq!((&swept.choices[..], swept.bytes), (&[1, 1][..], 8));
    assert_eq!(allocate(&tensors, 8).unwrap().choices, [1, 1]);
}

#[test]
fn a_search_that_grows_is_given_up_and_the_rest_holds() {
    // Bytes with no common measure, so that hardly any two sums are alike.
    let tensor = |t: usize| {
        let size = (1e6 * (1.0 + (t as f64 * 0.754_877_666).fract())) as u64;
        (0..8)
            .map(|bits| {
                candidate(
                    size * (bits + 1) + (t as u64 * 7919 * bits) % 1009,
                    4.0_f64.powi(-(bits as i32)),
                    bits as usize,
                )
            })
            .collect()
    };
    let tensors: Vec<Vec<Candidate>> = (0..300).map(tensor).collect();
    let budget = 1_500_000_000;
    let (found, same) = (allocate(&tensors, budget).unwrap(), uniform(&tensors, budget).unwrap());
    assert!(found.bytes <= budget && found.damage <= same.damage, "{} {}", found.damage, same.damage);
}

fn problem(tensors: usize) -> impl Strategy<Value = (Vec<Vec<Candidate>>, u64)> {
    let candidates = prop::collection::vec((1_u64..60, 0.0..10.0_f64, 0_usize..4), 1..6);
    let candidates = candidates.prop_map(|all| all.into_iter().map(|(b, d, l)| candidate(b, d, l)).collect());
    (prop::collection::vec(candidates, 1..=tensors), 0_u64..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn small_problems_are_solved_exactly((tensors, budget) in problem(6)) {
        match (allocate(&tensors, budget), brute_force(&tensors, budget)) {
            (Ok(found), Some(least)) => {
                prop_assert!(found.exact && found.bytes <= budget);
                prop_assert!((found.damage - least).abs() <= 1e-9, "{} instead of {least}", found.damage);
                prop_assert_eq!(&Allocation { exact: true, ..Allocation::of(&tensors, found.choices.clone()) }, &found);
            }
            (Err(AllocateError::Infeasible { smallest, .. }), None) => prop_assert!(smallest > budget),
            (found, least) => prop_assert!(false, "{found:?} and {least:?}"),
        }
    }

    #[test]
    fn no_label_alone_is_better((tensors, budget) in problem(20)) {
        if let Some(same) = uniform(&tensors, budget) {
            prop_assert!(allocate(&tensors, budget).unwrap().damage <= same.damage);
        }
    }

    /// Of convex damages and equal steps, the sweep alone is the best.
    #[test]
    fn the_sweep_is_exact_where_damages_are_convex_and_steps_equal(
        weights in prop::collection::vec(0.01..100.0_f64, 1..6),
        budget in 0_u64..20,
    ) {
        let tensor = |weight: &f64| (0..6).map(|bits| candidate(bits, weight * 4.0_f64.powi(-(bits as i32)), bits as usize)).collect();
        let tensors: Vec<Vec<Candidate>> = weights.iter().map(tensor).collect();
        let least = brute_force(&tensors, budget).unwrap();
        prop_assert!((sweep(&tensors, budget).0.damage - least).abs() <= 1e-12 * least);
    }
}
