//! What goes wrong: gateways, leaders, followers, ranks and links fail, replicas drain and are upgraded.

use super::replicas::{Death, Internal};
use super::world::{Message, Micros, World};

/// How long what is going wrong may go on, and how long it takes to catch up after that, in times that it takes a
/// process to come back.
const RECOVERY: Micros = 20;

// === impl World ===

impl World {
    /// Nothing goes wrong from now on, and soon nobody notices any more that it did.
    pub(super) fn calm_down(&mut self) {
        self.recovered_at = self.now + RECOVERY * self.shape.back;
        (self.trouble, self.wrong, self.slow) = (false, 0, 0);
        self.links.iter_mut().for_each(|link| link.lag = 0);
    }

    /// Something goes wrong, somewhere.
    pub(super) fn hurt_somebody(&mut self) {
        self.troubled = true;
        let replica = self.random.below(self.replicas.len() as u64) as usize;
        let gateway = self.random.below(self.gateways.len() as u64) as usize;
        match self.random.below(12) {
            0 => self.kill_gateway(gateway),
            1 => self.cut_a_link(),
            2 => self.drain(replica),
            3 => self.restart_all(false),
            4 => self.restart_all(self.thorough),
            kind => self.hurt_replica(replica, kind),
        }
    }

    fn cut_a_link(&mut self) {
        let open = (0..self.links.len()).filter(|link| self.links[*link].gateway_end && self.links[*link].replica_end);
        let open: Vec<usize> = open.collect();
        if !open.is_empty() {
            let link = open[self.random.below(open.len() as u64) as usize];
            let notice = self.random.below(20_000);
            self.cut(link, notice);
        }
    }

    /// One replica after another leaves and comes back; perhaps with other weights.
    fn restart_all(&mut self, upgrade: bool) {
        if self.rolling.is_empty() {
            self.generation += u64::from(upgrade);
            self.rolling = (1..self.replicas.len()).collect();
            self.drain(0);
        }
    }

    fn hurt_replica(&mut self, replica: usize, kind: u64) {
        let rank = self.random.below(self.shape.ranks as u64) as usize;
        let full = self.shape.full_step();
        let later = self.random.between(full, 110 * full);
        let recovers = self.random.chance(500);
        let it = &mut self.replicas[replica];
        let Some(epoch) = &mut it.epoch else { return };
        epoch.hurt = true;
        let die = |death| Message::Within(replica, epoch.number, Internal::Die(death));
        let (after, message) = match kind {
            5 => (0, die(Death::Broken)),
            6 => (0, die(Death::Silent)),
            // a follower is gone, and the leader notices
            7 => (later / 200, die(Death::Orderly)),
            8 | 9 => {
                it.hung = true;
                epoch.idle_since = None;
                (later, if recovers { Message::Resume(replica) } else { die(Death::Broken) })
            }
            10 => {
                epoch.silent = Some(rank);
                // if nothing is computed, its heartbeat is missed
                (42 * full, die(Death::Orderly))
            }
            _ => {
                epoch.skips = Some(rank);
                (42 * full, die(Death::Orderly))
            }
        };
        self.post(after, message);
    }
}
