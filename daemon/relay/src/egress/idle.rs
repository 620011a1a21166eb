//! When nothing goes by any more.

use std::time::Duration;

use tokio::time::sleep;

/// Ends once `total` has stayed as it is for `span`, and for less than twice that.
pub async fn idle(span: Duration, total: impl Fn() -> u64) {
    loop {
        let before = total();
        sleep(span).await;
        if total() == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn it_lasts_for_as_long_as_something_goes_by() {
        let totals = [0, 5, 5, 6, 6, 6];
        let asked = Cell::new(0);
        let total = || totals[asked.replace(asked.get() + 1)];
        idle(Duration::from_millis(1), total).await;
        assert_eq!(asked.get(), totals.len());
    }
}
