// NVRTC's API. A kernel becomes a library for the CPU; what stands for PTX is the library's path.
#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <mutex>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

// nvrtcResult
const int SUCCESS = 0, COMPILATION = 6;

struct Program {
    std::string source, log, image;
};

std::string variable(const char *name) {
    const char *value = getenv(name);
    if (!value) {
        fprintf(stderr, "emulator: %s is not set; start the program with tests/emulator/run\n", name);
        exit(2);
    }
    return value;
}

// Instructions, by how they begin, and the functions of include/ptx.h.
const std::pair<const char *, const char *> INSTRUCTIONS[] = {
    {"mma.sync.aligned.m16n8k8.row.col.f32.tf32", "mma_m16n8k8_tf32"},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16", "mma_m16n8k16_bf16"},
    {"ldmatrix.sync.aligned.m8n8.x2.trans", "ldmatrix_x2<true>"},
    {"ldmatrix.sync.aligned.m8n8.x2.shared", "ldmatrix_x2<false>"},
    {"ldmatrix.sync.aligned.m8n8.x4.trans", "ldmatrix_x4<true>"},
    {"ldmatrix.sync.aligned.m8n8.x4.shared", "ldmatrix_x4<false>"},
    {"cp.async.cg", "cp_async"},
    {"cp.async.mbarrier.arrive", "cp_async_arrive"},
    {"atom.relaxed.add.f32", "atom_add"},
};

// `asm volatile("CODE" : "=r"(a) : "r"(b) : "memory")` as `emulator::FUNCTION(a, b)`.
std::string without_assembly(const std::string &source) {
    const std::string assembly = "asm volatile(";
    std::string out;
    size_t at = 0;
    for (;;) {
        const size_t from = source.find(assembly, at);
        if (from == source.npos) return out + source.substr(at);
        out += source.substr(at, from - at);
        const size_t first = source.find('"', from), last = source.find('"', first + 1);
        const std::string code = source.substr(first + 1, last - first - 1);
        std::string arguments;
        size_t open = 0;
        bool quoted = false;
        int depth = 1;
        for (at = last + 1; depth > 0; at++) {
            const char c = source[at];
            if (c == '"') quoted = !quoted;
            if (quoted) continue;
            if (c == '(' && depth++ == 1) open = at + 1;
            if (c == ')' && --depth == 1) arguments += (arguments.empty() ? "" : ", ") + source.substr(open, at - open);
        }
        std::string function;
        for (auto [prefix, name] : INSTRUCTIONS)
            if (code.rfind(prefix, 0) == 0) function = name;
        if (function.empty()) {
            fprintf(stderr, "emulator: no function stands for the instruction %s\n", code.c_str());
            function = "unknown";
        }
        out += "emulator::" + function + "(" + arguments + ")";
    }
}

// The source as C++ for the CPU, with a function for each kernel that takes its arguments as cuLaunchKernel has them.
std::string for_cpu(const std::string &source) {
    std::string text = without_assembly(source);
    text = std::regex_replace(text, std::regex("extern __shared__ __align__\\(\\d+\\) char (\\w+)\\[\\];"),
                              "char *const $1 = emulator_shared;");
    // Those of the CPU's headers are other types of the same size.
    text = std::regex_replace(text, std::regex("typedef (unsigned|signed) long long int u?int64_t;"), "");
    const std::regex kernel("__global__\\s+void\\s+(?:__\\w+__\\s*\\([^)]*\\)\\s*)*(\\w+)\\s*\\(");
    std::string calls;
    for (std::sregex_iterator it(text.begin(), text.end(), kernel), end; it != end; ++it) {
        const std::string name = (*it)[1].str();
        calls += "extern \"C\" void emulator_call_" + name + "(void **arguments) { emulator::call(&" + name + ", arguments); }\n";
    }
    return text + "\n" + calls;
}

std::string read(const std::string &path) {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

// Has the real NVRTC compile a program; keeps the cubin.
bool is_taken_by_nvrtc(Program &program, int count, const char *const *options, const std::string &base) {
    const char *path = getenv("EMULATOR_NVRTC");
    if (!path) return true;
    static void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        program.log = dlerror();
        return false;
    }
    auto symbol = [](const char *name) { return dlsym(library, name); };
    using Create = int (*)(void **, const char *, const char *, int, const char *const *, const char *const *);
    using Compile = int (*)(void *, int, const char *const *);
    using Size = int (*)(void *, size_t *);
    using Text = int (*)(void *, char *);
    void *real = nullptr;
    reinterpret_cast<Create>(symbol("nvrtcCreateProgram"))(&real, program.source.c_str(), nullptr, 0, nullptr, nullptr);
    const int result = reinterpret_cast<Compile>(symbol("nvrtcCompileProgram"))(real, count, options);
    auto take = [&](const char *size_of, const char *text_of) {
        size_t size = 0;
        reinterpret_cast<Size>(symbol(size_of))(real, &size);
        std::string text(size, '\0');
        reinterpret_cast<Text>(symbol(text_of))(real, text.data());
        return text;
    };
    program.log = take("nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
    if (result == SUCCESS) std::ofstream(base + ".cubin", std::ios::binary) << take("nvrtcGetCUBINSize", "nvrtcGetCUBIN");
    reinterpret_cast<int (*)(void **)>(symbol("nvrtcDestroyProgram"))(&real);
    return result == SUCCESS;
}

// Compiles for the CPU unless that was done before.
bool is_compiled(Program &program, const std::string &base) {
    const std::string library = base + ".so", fresh = library + "." + std::to_string(getpid());
    if (access(library.c_str(), R_OK) == 0) return true;
    std::ofstream(base + ".cpp") << for_cpu(program.source);
    const std::string include = variable("EMULATOR_INCLUDE"), libraries = variable("EMULATOR_LIBRARIES");
    const std::string command = "c++ -std=c++20 -O1 -w -fpermissive -fno-strict-aliasing -ffp-contract=off -march=native -shared -fPIC"
                                " -include '" + include + "/device.h' -I '" + include + "' -o '" + fresh + "' '" + base + ".cpp'" +
                                " -L '" + libraries + "' -l:libcuda.so 2> '" + base + ".log' && mv '" + fresh + "' '" + library + "'";
    if (system(command.c_str()) == 0) return true;
    program.log = read(base + ".log");
    return false;
}

}  // namespace

API int nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 0, SUCCESS; }
API const char *nvrtcGetErrorString(int error) { return error == SUCCESS ? "success" : "refused by the emulator"; }
API int nvrtcCreateProgram(Program **program, const char *source, const char *, int, const char *const *, const char *const *) {
    return *program = new Program{source, "", ""}, SUCCESS;
}
API int nvrtcDestroyProgram(Program **program) { return delete *program, SUCCESS; }
API int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
    // Ranks of one process compile the same kernels.
    static std::mutex one;
    std::lock_guard<std::mutex> guard(one);
    std::stringstream base;
    base << variable("EMULATOR_KERNELS") << '/' << std::hex << std::hash<std::string>()(program->source);
    std::ofstream(base.str() + ".cu") << program->source;
    const bool only_compiles = getenv("EMULATOR_ONLY_COMPILE");
    const bool is_fine = is_taken_by_nvrtc(*program, count, options, base.str()) && (only_compiles || is_compiled(*program, base.str()));
    if (!is_fine) {
        fprintf(stderr, "emulator: %s.cu is refused\n%s\n", base.str().c_str(), program->log.substr(0, 3000).c_str());
        return COMPILATION;
    }
    program->image = base.str() + ".so\n";
    return SUCCESS;
}
API int nvrtcGetProgramLogSize(Program *program, size_t *size) { return *size = program->log.size() + 1, SUCCESS; }
API int nvrtcGetProgramLog(Program *program, char *log) { return memcpy(log, program->log.c_str(), program->log.size() + 1), SUCCESS; }
API int nvrtcGetPTXSize(Program *program, size_t *size) { return *size = program->image.size() + 1, SUCCESS; }
API int nvrtcGetPTX(Program *program, char *ptx) { return memcpy(ptx, program->image.c_str(), program->image.size() + 1), SUCCESS; }
