/* Barriers and warp operations: arrival of a thread, and what happens when the last one is there. */
#include "internal.h"

#include <algorithm>

namespace cuda_sim
{

/* The order that a barrier gives, for the thread sanitizer: all before it, in any thread, is before all after it. */
static void meet(Meeting &meeting)
{
    const void *sync = meeting.now();
    sync_release(sync);
    wait();
    sync_acquire(sync);
}

unsigned barrier(Barrier kind, bool predicate, Place place)
{
    Thread &thread = *current;
    thread.state = State::at_barrier;
    thread.barrier = kind;
    thread.value = predicate;
    thread.place = place;
    thread.block->arrived++;
    meet(thread.block->meeting);
    return unsigned(thread.result);
}

static bool same(Place a, Place b) { return a.line == b.line && std::string(a.file) == b.file; }

void complete_barrier(Block &block)
{
    /* A thread that returned counts as absent: rules of ours, since what a GPU does then is undefined. */
    if (block.arrived < block.threads.size()) return;
    const Thread &first = *block.threads[0];
    unsigned count = 0;
    for (auto &thread : block.threads) {
        count += thread->value != 0;
        const bool same_text = running->translated || same(thread->place, first.place);
        if (thread->barrier != first.barrier || !same_text) {
            fail(first.place, "divergent barrier: thread 0 is at this one, thread %u at %s:%d", thread->number,
                 thread->place.file, thread->place.line);
        }
    }
    for (auto &thread : block.threads) {
        thread->state = State::ready;
        thread->result = thread->barrier == Barrier::all   ? count == block.threads.size()
                         : thread->barrier == Barrier::any ? count > 0
                                                           : count;
    }
    block.arrived = 0;
    block.meeting.round++;
}

uint64_t warp(Warp kind, unsigned mask, uint64_t value, unsigned b, unsigned c, bool *in_range, Place place)
{
    Thread &thread = *current;
    if (!(mask >> thread.lane() & 1)) {
        fail(place, "lane %u takes part in a warp operation whose mask 0x%08x does not name it", thread.lane(), mask);
    }
    thread.state = State::at_warp;
    thread.warp = kind;
    thread.mask = mask;
    thread.value = value;
    thread.b = b;
    thread.c = c;
    thread.place = place;
    if (kind == Warp::sync) {
        Meeting *meeting;
        {
            Unwatched map;
            meeting = &thread.block->warp_meetings[uint64_t(thread.number / WARP_LANES) << 32 | mask];
        }
        meet(*meeting);
    } else {
        wait(); /* shuffles and votes order no memory */
    }
    if (in_range != nullptr) *in_range = thread.in_range;
    return thread.result;
}

/* shfl.sync of the PTX manual: the lane to read from, and whether it is in range (else the lane reads itself). */
static unsigned shuffle_source(Thread &thread)
{
    const unsigned lane = thread.lane(), b = thread.b & 31, segment = thread.c >> 8 & 31;
    const unsigned max_lane = (lane & segment) | (thread.c & 31 & ~segment), min_lane = lane & segment;
    unsigned from = 0;
    bool in_range = false;
    switch (thread.warp) {
    case Warp::up:
        from = lane - b;
        in_range = int(from) >= int(max_lane);
        break;
    case Warp::down:
        from = lane + b;
        in_range = from <= max_lane;
        break;
    case Warp::butterfly:
        from = lane ^ b;
        in_range = from <= max_lane;
        break;
    default: /* index */
        from = min_lane | (b & ~segment);
        in_range = from <= max_lane;
        break;
    }
    thread.in_range = in_range;
    return in_range ? from : lane;
}

using Lanes = std::vector<Thread *>; /* by lane; null: not named by the mask */

/* Votes and reductions: the same answer for every lane. */
static uint64_t vote(const Lanes &lanes, const Thread &thread)
{
    uint64_t ballot = 0, folded = thread.value;
    for (const Thread *other : lanes) {
        if (other == nullptr) continue;
        const bool counts = thread.warp == Warp::match ? other->value == thread.value : other->value != 0;
        if (counts) ballot |= uint64_t(1) << other->lane();
        if (other == &thread) continue;
        const auto mine = uint32_t(folded), theirs = uint32_t(other->value);
        switch (thread.warp) {
        case Warp::add: folded = mine + theirs; break;
        case Warp::min_signed: folded = uint32_t(std::min(int32_t(mine), int32_t(theirs))); break;
        case Warp::max_signed: folded = uint32_t(std::max(int32_t(mine), int32_t(theirs))); break;
        case Warp::min_unsigned: folded = std::min(mine, theirs); break;
        case Warp::max_unsigned: folded = std::max(mine, theirs); break;
        case Warp::bit_and: folded = mine & theirs; break;
        case Warp::bit_or: folded = mine | theirs; break;
        case Warp::bit_xor: folded = mine ^ theirs; break;
        default: break;
        }
    }
    switch (thread.warp) {
    case Warp::sync: return 0;
    case Warp::ballot:
    case Warp::match: return ballot;
    case Warp::any: return ballot != 0;
    case Warp::all: return ballot == thread.mask;
    default: return uint32_t(folded);
    }
}

static void resolve(const Lanes &lanes, Thread &thread)
{
    switch (thread.warp) {
    case Warp::index:
    case Warp::up:
    case Warp::down:
    case Warp::butterfly: {
        const unsigned from = shuffle_source(thread);
        if (lanes[from] == nullptr) {
            fail(thread.place, "lane %u reads from lane %u, which mask 0x%08x does not name", thread.lane(), from,
                 thread.mask);
        }
        thread.result = lanes[from]->value;
        break;
    }
    default: thread.result = vote(lanes, thread); break;
    }
}

void complete_warp(Thread &arrived)
{
    Block &block = *arrived.block;
    const unsigned first = arrived.number - arrived.lane();
    Lanes lanes(WARP_LANES);
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        if (!(arrived.mask >> lane & 1)) continue;
        if (first + lane >= block.threads.size()) {
            fail(arrived.place, "mask 0x%08x names lane %u, which the block does not have", arrived.mask, lane);
        }
        Thread *other = block.threads[first + lane].get();
        if (other->state != State::at_warp || other->warp != arrived.warp || other->mask != arrived.mask) return;
        lanes[lane] = other;
    }
    for (Thread *thread : lanes) {
        if (thread == nullptr) continue;
        if (!running->translated && !same(thread->place, arrived.place)) {
            fail(arrived.place, "divergent warp operation: lane %u is at this one, lane %u at %s:%d", arrived.lane(),
                 thread->lane(), thread->place.file, thread->place.line);
        }
        resolve(lanes, *thread);
    }
    for (Thread *thread : lanes) {
        if (thread != nullptr) thread->state = State::ready;
    }
    const auto found = block.warp_meetings.find(uint64_t(arrived.number / WARP_LANES) << 32 | arrived.mask);
    if (arrived.warp == Warp::sync && found != block.warp_meetings.end()) found->second.round++;
}

} // namespace cuda_sim
