//! Persistence by definition: the whole boundary matrix, reduced column by column. For tests of small clouds.

use super::{Diagram, Distances};

/// The diagrams of dimensions 0 and 1 of all simplices of up to three points, from left to right over the field of two elements.
///
/// Source: Edelsbrunner, Letscher, Zomorodian 2002, "Topological persistence and simplification".
pub(super) fn persistence_up_to(distances: &Distances, limit: f64) -> [Diagram; 2] {
    let n = distances.points();
    let mut simplices: Vec<(f64, Vec<usize>)> = Vec::new();
    for i in 0..n {
        simplices.push((0.0, vec![i]));
        for j in i + 1..n {
            simplices.push((distances.between(i, j), vec![i, j]));
            for k in j + 1..n {
                let diameter = distances.between(i, j).max(distances.between(i, k)).max(distances.between(j, k));
                simplices.push((diameter, vec![i, j, k]));
            }
        }
    }
    simplices.retain(|(diameter, _)| *diameter <= limit && diameter.is_finite());
    simplices.sort_by(|(a, points), (b, others)| {
        a.total_cmp(b).then(points.len().cmp(&others.len())).then(points.cmp(others))
    });
    let place = |points: &[usize]| simplices.iter().position(|(_, others)| others == points).unwrap();
    let mut columns: Vec<Vec<usize>> = Vec::new();
    let mut features = [Vec::new(), Vec::new()];
    let mut paired = vec![false; simplices.len()];
    for (index, (diameter, points)) in simplices.iter().enumerate() {
        let mut column: Vec<usize> = Vec::new();
        for skipped in (0..points.len()).filter(|_| points.len() > 1) {
            let face: Vec<usize> = (0..points.len()).filter(|at| *at != skipped).map(|at| points[at]).collect();
            column.push(place(&face));
        }
        column.sort_unstable();
        while let Some(other) = columns.iter().find(|other| !other.is_empty() && other.last() == column.last()) {
            let sum = column
                .iter()
                .filter(|row| !other.contains(row))
                .chain(other.iter().filter(|row| !column.contains(row)));
            column = sum.copied().collect();
            column.sort_unstable();
        }
        if let Some(&row) = column.last() {
            paired[index] = true;
            paired[row] = true;
            features[points.len() - 2].push((simplices[row].0, *diameter));
        }
        columns.push(column);
    }
    for (index, (diameter, points)) in simplices.iter().enumerate() {
        if !paired[index] && points.len() <= 2 {
            features[points.len() - 1].push((*diameter, f64::INFINITY));
        }
    }
    let [pieces, loops] = features;
    [Diagram::new(0, pieces), Diagram::new(1, loops)]
}
