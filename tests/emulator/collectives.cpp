// NCCL's API for the ranks of one process, as far as Brazier calls it. A collective is done when its last rank begins it; until then the
// streams of the others have work to do.
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

extern "C" void emulator_begun(void *stream);
extern "C" void emulator_done(void *stream);

namespace {

// ncclResult_t, ncclDataType_t, ncclRedOp_t
const int SUCCESS = 0, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE = 6;
const int F32 = 7;
const int SUM = 0;

struct Id {
    char bytes[128];
};

enum class Kind { AllReduce, ReduceScatter, AllGather };

// What one rank asks for. The count is of all values of an all-reduce, else of a rank's part.
struct Request {
    Kind kind;
    const void *from;
    void *to;
    size_t count;
    int dtype;
    void *stream;
};

struct World {
    int size;
    int joined = 0;
    int error = SUCCESS;
    // By their number, then by rank.
    std::map<size_t, std::map<int, Request>> begun;
};

struct Communicator {
    World *world;
    int rank;
    size_t next = 0;
};

std::mutex lock;
std::condition_variable joined;
std::map<std::string, World *> worlds;

float load(const void *values, size_t i, int dtype) {
    if (dtype == F32) return static_cast<const float *>(values)[i];
    const uint32_t bits = uint32_t(static_cast<const uint16_t *>(values)[i]) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void store(void *values, size_t i, int dtype, float value) {
    if (dtype == F32) {
        static_cast<float *>(values)[i] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    static_cast<uint16_t *>(values)[i] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

void perform(World &world, const std::map<int, Request> &requests) {
    const Request &first = requests.begin()->second;
    const size_t bytes = first.count * (first.dtype == F32 ? 4 : 2);
    for (auto &[rank, request] : requests)
        if (request.kind != first.kind || request.count != first.count || request.dtype != first.dtype) {
            fprintf(stderr, "emulator: rank %d asks NCCL for something else than the first one\n", rank);
            world.error = INVALID_USAGE;
            return;
        }
    // Results are complete before any is written: they may lie where the operands are.
    std::vector<char> out(first.kind == Kind::AllReduce ? bytes : bytes * world.size);
    if (first.kind == Kind::AllGather) {
        for (auto &[rank, request] : requests) memcpy(&out[rank * bytes], request.from, bytes);
    } else {
        const size_t count = first.kind == Kind::AllReduce ? first.count : first.count * world.size;
        for (size_t i = 0; i < count; i++) {
            float sum = 0;
            for (auto &[rank, request] : requests) sum += load(request.from, i, first.dtype);
            store(out.data(), i, first.dtype, sum);
        }
    }
    for (auto &[rank, request] : requests) {
        const bool takes_part = first.kind == Kind::ReduceScatter;
        memcpy(request.to, out.data() + (takes_part ? rank * bytes : 0), takes_part ? bytes : out.size());
    }
}

int begin(Communicator &communicator, const Request &request) {
    std::lock_guard<std::mutex> guard(lock);
    World &world = *communicator.world;
    const size_t number = communicator.next++;
    auto &requests = world.begun[number];
    requests[communicator.rank] = request;
    emulator_begun(request.stream);
    if (int(requests.size()) == world.size) {
        perform(world, requests);
        for (auto &[rank, other] : requests) emulator_done(other.stream);
        world.begun.erase(number);
    }
    return SUCCESS;
}

}  // namespace

API int ncclGetVersion(int *version) { return *version = 22703, SUCCESS; }
API const char *ncclGetErrorString(int) { return "refused by the emulator"; }
API int ncclGetUniqueId(Id *id) {
    static int count = 0;
    std::lock_guard<std::mutex> guard(lock);
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "communicator %d", ++count);
    return SUCCESS;
}
API int ncclCommInitRank(Communicator **communicator, int size, Id id, int rank) {
    std::unique_lock<std::mutex> guard(lock);
    World *&place = worlds[id.bytes];
    if (!place) place = new World{size, 0, SUCCESS, {}};
    World *world = place;
    world->joined++;
    joined.notify_all();
    joined.wait(guard, [&] { return world->joined >= size; });
    *communicator = new Communicator{world, rank, 0};
    return SUCCESS;
}
API int ncclCommAbort(Communicator *communicator) {
    std::lock_guard<std::mutex> guard(lock);
    World &world = *communicator->world;
    world.error = REMOTE;
    for (auto &[number, requests] : world.begun) {
        auto own = requests.find(communicator->rank);
        if (own == requests.end()) continue;
        emulator_done(own->second.stream);
        requests.erase(own);
    }
    return SUCCESS;
}
API int ncclCommGetAsyncError(Communicator *communicator, int *error) { return *error = communicator->world->error, SUCCESS; }
API int ncclAllReduce(const void *from, void *to, size_t count, int dtype, int op, Communicator *communicator, void *stream) {
    return op == SUM ? begin(*communicator, {Kind::AllReduce, from, to, count, dtype, stream}) : INVALID_ARGUMENT;
}
API int ncclReduceScatter(const void *from, void *to, size_t count, int dtype, int op, Communicator *communicator, void *stream) {
    return op == SUM ? begin(*communicator, {Kind::ReduceScatter, from, to, count, dtype, stream}) : INVALID_ARGUMENT;
}
API int ncclAllGather(const void *from, void *to, size_t count, int dtype, Communicator *communicator, void *stream) {
    return begin(*communicator, {Kind::AllGather, from, to, count, dtype, stream});
}
