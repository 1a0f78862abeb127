/* What is said when a kernel breaks a rule; the process then ends, as nothing it would compute could be trusted. */
#include "internal.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <tuple>

namespace cuda_sim
{

static std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));
static std::string text(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    return line;
}

[[noreturn]] static void stop(const std::string &message)
{
    fprintf(stderr, "cuda_sim: %s: %s\n", running != nullptr ? running->name.c_str() : "host", message.c_str());
    fflush(nullptr);
    abort();
}

void fail(Place place, const char *format, ...)
{
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    std::string who;
    if (current != nullptr) {
        const uint3 block = current->block->index, thread = current->index;
        who = text(" (block %u,%u,%u thread %u,%u,%u)", block.x, block.y, block.z, thread.x, thread.y, thread.z);
    }
    stop(text("%s:%d: ", place.file, place.line) + message + who);
}

/* "0-6, 8": runs of numbers. */
std::string number_list(const std::vector<unsigned> &numbers)
{
    std::string list;
    for (size_t i = 0, end; i < numbers.size(); i = end) {
        for (end = i + 1; end < numbers.size() && numbers[end] == numbers[end - 1] + 1;) end++;
        list += text(end - i > 1 ? "%s%u-%u" : "%s%u", i > 0 ? ", " : "", numbers[i], numbers[end - 1]);
    }
    return list;
}

static std::string what_it_waits_for(const Thread &thread)
{
    switch (thread.state) {
    case State::at_barrier: return text("wait at barrier %s:%d", thread.place.file, thread.place.line);
    case State::at_warp:
        return text("wait at warp operation %s:%d with mask 0x%08x", thread.place.file, thread.place.line, thread.mask);
    case State::finished: return "have exited";
    case State::ready: break;
    }
    return "can go on";
}

void report_deadlock(const Grid &grid)
{
    std::string message = "deadlock";
    for (const auto &block : grid.live) {
        if (block->finished == block->threads.size()) continue;
        std::map<std::string, std::vector<unsigned>> groups;
        for (const auto &thread : block->threads) groups[what_it_waits_for(*thread)].push_back(thread->number);
        message += text(" in block %u,%u,%u:", block->index.x, block->index.y, block->index.z);
        const char *separator = " threads ";
        for (const auto &[what, numbers] : groups) {
            message += separator + number_list(numbers) + " " + what;
            separator = "; threads ";
        }
        break; /* one block says it */
    }
    stop(message);
}

} // namespace cuda_sim
