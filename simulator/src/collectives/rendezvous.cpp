// The meeting of a communicator's ranks: each tells the root who and where it is, learns the same of
// all, opens its channels, and goes on when all have done so.
#include "collectives/rendezvous.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <optional>

#include "collectives/environment.h"

namespace cannsim::collectives {
namespace {

constexpr char kMagic[8] = {'C', 'A', 'N', 'N', 'H', 'C', 'L', '1'};
// HCCL waits 20 s longer than HCCL_CONNECT_TIMEOUT, to tell all ranks why it failed (its documentation).
constexpr auto kTelling = std::chrono::seconds(20);

struct Hello {
  char magic[8];
  char token[32];
  char host[96];
  char local[96];  // where the rank waits for others of its host
  uint32_t rank, ranks;
  int32_t device, process;  // the device's physical number
};

struct Verdict {
  int32_t result;
  char message[500];
};

struct Preamble {  // of a connection between two ranks
  char token[32];
  uint32_t rank, plane;
};

template <size_t n>
void put(char (&field)[n], const std::string& text) {
  std::memset(field, 0, n);
  std::memcpy(field, text.data(), std::min(text.size(), n - 1));
}

template <size_t n>
std::string get(const char (&field)[n]) {
  return std::string(field, strnlen(field, n));
}

std::string random_text() {
  unsigned char bytes[12];
  if (getrandom(bytes, sizeof(bytes), 0) != ssize_t(sizeof(bytes))) throw Failure(HCCL_E_SYSCALL, "no random numbers");
  std::string text;
  for (unsigned char byte : bytes) text += "0123456789abcdef"[byte >> 4], text += "0123456789abcdef"[byte & 15];
  return text;
}

// ---- the root's side --------------------------------------------------------------------------

struct Listeners {
  Descriptor local, remote;
};

// Meetings that this process has opened and no rank of it has joined yet.
struct Opened {
  std::mutex mutex;
  std::map<std::string, Listeners> all;
};
Opened& opened() {
  static auto* made = new Opened;
  return *made;
}

std::optional<Listeners> claim(const Meeting& meeting) {
  std::lock_guard lock(opened().mutex);
  auto found = opened().all.find(get(meeting.token));
  if (found == opened().all.end()) return std::nullopt;
  Listeners mine = std::move(found->second);
  opened().all.erase(found);
  return mine;
}

struct Guest {
  Descriptor socket;
  Hello hello{};
  size_t got = 0;
};

class Host {
 public:
  Host(Listeners listeners, const Meeting& meeting, uint32_t ranks, Deadline deadline)
      : listeners_(std::move(listeners)), meeting_(meeting), ranks_(ranks), deadline_(deadline), seated_(ranks) {}

  void run() {
    try {
      gather();
      check();
      Verdict fine{};
      tell(fine);
      for (Guest& guest : seated_) {
        for (const Guest& other : seated_) send_all(guest.socket, &other.hello, sizeof(Hello), deadline_);
      }
      if (several_hosts()) share_addresses();
      agree();
    } catch (const Failure& failure) {
      Verdict verdict{failure.result, {}};
      put(verdict.message, failure.what());
      tell(verdict);
    }
  }

 private:
  void tell(const Verdict& verdict) {
    for (Guest& guest : seated_) {
      if (!guest.socket) continue;
      try {
        send_all(guest.socket, &verdict, sizeof(verdict), Clock::now() + kTelling);
      } catch (const Failure&) {
        // Gone; what the others are told names the reason.
      }
    }
  }

  size_t present() const {
    size_t count = 0;
    for (const Guest& guest : seated_) count += bool(guest.socket);
    return count;
  }

  std::string missing() const {
    std::string text;
    for (uint32_t rank = 0; rank < ranks_; ++rank) {
      if (!seated_[rank].socket) text += (text.empty() ? "" : ", ") + std::to_string(rank);
    }
    return text;
  }

  // Until all ranks have said hello; strangers are dropped, and a rank that leaves ends it.
  void gather() {
    std::vector<Guest> arriving;
    while (present() < ranks_) {
      std::vector<pollfd> entries;
      auto listen_to = [&](int socket) { entries.push_back({socket, POLLIN, 0}); };
      listen_to(listeners_.local.get());
      if (listeners_.remote) listen_to(listeners_.remote.get());
      for (Guest& guest : arriving) listen_to(guest.socket.get());
      for (Guest& guest : seated_) {
        if (guest.socket) listen_to(guest.socket.get());
      }
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
      if (left <= 0)
        throw Failure(HCCL_E_TIMEOUT, "EI0006: rank " + missing() + " of " + std::to_string(ranks_) + " did not join communicator '" +
                                          get(meeting_.name) + "' in time (HCCL_CONNECT_TIMEOUT)");
      poll(entries.data(), entries.size(), int(left));
      for (Guest& guest : seated_) check_still_there(guest);
      for (auto it = arriving.begin(); it != arriving.end();) it = listen(*it) ? arriving.erase(it) : it + 1;
      for (const Descriptor* listener : {&listeners_.local, &listeners_.remote}) {
        const int made = *listener ? accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1;
        if (made >= 0) arriving.push_back({Descriptor(made)});
      }
    }
  }

  void check_still_there(Guest& guest) {
    char byte;
    if (guest.socket && recv(guest.socket.get(), &byte, 1, MSG_PEEK) == 0) {
      guest.socket = Descriptor();
      throw Failure(HCCL_E_TCP_CONNECT, "rank " + std::to_string(guest.hello.rank) + " (process " + std::to_string(guest.hello.process) +
                                            ") left while communicator '" + get(meeting_.name) + "' was made");
    }
  }

  // True when the guest has been seated or sent away.
  bool listen(Guest& guest) {
    const ssize_t got = recv(guest.socket.get(), reinterpret_cast<char*>(&guest.hello) + guest.got, sizeof(Hello) - guest.got, 0);
    if (got < 0) return errno != EAGAIN && errno != EINTR;
    if (got == 0) return true;
    guest.got += size_t(got);
    if (guest.got < sizeof(Hello)) return false;
    const Hello& hello = guest.hello;
    if (std::memcmp(hello.magic, kMagic, sizeof(kMagic)) != 0 || get(hello.token) != get(meeting_.token)) return true;
    const std::string who = "rank " + std::to_string(hello.rank);
    if (hello.ranks != ranks_ || hello.rank >= ranks_ || seated_[hello.rank].socket) {
      const bool twice = hello.ranks == ranks_ && hello.rank < ranks_;
      Verdict verdict{HCCL_E_PARA, {}};
      put(verdict.message, twice ? "EI0004: two processes joined as " + who
                                 : "EI0004: " + who + " joined with " + std::to_string(hello.ranks) + " ranks, the root with " + std::to_string(ranks_));
      send_all(guest.socket, &verdict, sizeof(verdict), deadline_);
      throw Failure(HCCL_E_PARA, get(verdict.message));
    }
    seated_[hello.rank] = std::move(guest);
    return true;
  }

  void check() const {
    for (const Guest& one : seated_) {
      for (const Guest& other : seated_) {
        if (one.hello.rank < other.hello.rank && get(one.hello.host) == get(other.hello.host) && one.hello.device == other.hello.device)
          throw Failure(HCCL_E_PARA, "EI0004: ranks " + std::to_string(one.hello.rank) + " and " + std::to_string(other.hello.rank) + " are both on device " +
                                         std::to_string(one.hello.device) + " of one host; a communicator has one rank on each device (CANNSIM_DEVICES)");
      }
    }
  }

  bool several_hosts() const {
    for (const Guest& guest : seated_) {
      if (get(guest.hello.host) != get(seated_.front().hello.host)) return true;
    }
    return false;
  }

  void share_addresses() {
    std::vector<Address> addresses(ranks_);
    for (uint32_t rank = 0; rank < ranks_; ++rank) receive_all(seated_[rank].socket, &addresses[rank], sizeof(Address), deadline_, "rank " + std::to_string(rank));
    for (Guest& guest : seated_) send_all(guest.socket, addresses.data(), addresses.size() * sizeof(Address), deadline_);
  }

  // Each tells how it went; all hear the first misfortune, or that all went well.
  void agree() {
    Verdict common{};
    for (Guest& guest : seated_) {
      Verdict one{};
      receive_all(guest.socket, &one, sizeof(one), deadline_ + kTelling / 2, "rank " + std::to_string(guest.hello.rank));
      if (common.result == HCCL_SUCCESS && one.result != HCCL_SUCCESS) {
        common.result = one.result;
        put(common.message, "rank " + std::to_string(guest.hello.rank) + ": " + get(one.message));
      }
    }
    tell(common);
  }

  Listeners listeners_;
  const Meeting& meeting_;
  const uint32_t ranks_;
  const Deadline deadline_;
  std::vector<Guest> seated_;
};

// ---- a rank's side ----------------------------------------------------------------------------

class Joining {
 public:
  Joining(const Meeting& meeting, Communicator& made, Deadline deadline) : meeting_(meeting), made_(made), deadline_(deadline) {}

  void run() {
    const bool patient = meeting_.patient != 0;
    root_ = get(meeting_.host) == own_host() ? connect_locally(get(meeting_.local), deadline_, patient)
                                             : connect_to(meeting_.address, deadline_, patient);
    introduce();
    hear("the root of communicator '" + get(meeting_.name) + "'");
    all_.resize(made_.ranks);
    receive(all_.data(), all_.size() * sizeof(Hello));
    for (uint32_t rank = 0; rank < made_.ranks; ++rank) place(rank);
    exchange_addresses();
    Verdict mine{};
    try {
      share_memory();
      connect_hosts();
    } catch (const Failure& failure) {
      mine.result = failure.result;
      put(mine.message, failure.what());
    }
    send_all(root_, &mine, sizeof(mine), deadline_);
    hear("the root");
    if (made_.watch) made_.watch->start();
  }

 private:
  void introduce() {
    std::string name;
    local_ = listen_locally(&name);
    Hello mine{};
    std::memcpy(mine.magic, kMagic, sizeof(kMagic));
    put(mine.token, get(meeting_.token));
    put(mine.host, own_host());
    std::memcpy(mine.local, name.data(), std::min(name.size(), sizeof(mine.local) - 1));
    mine.rank = made_.rank;
    mine.ranks = made_.ranks;
    mine.device = settings().visible.at(size_t(made_.device));
    mine.process = getpid();
    send_all(root_, &mine, sizeof(mine), deadline_);
  }

  void receive(void* data, size_t bytes) { receive_all(root_, data, bytes, deadline_, "the root of communicator '" + get(meeting_.name) + "'"); }

  void hear(const std::string& from) {
    Verdict verdict;
    receive_all(root_, &verdict, sizeof(verdict), deadline_, from);
    if (verdict.result != HCCL_SUCCESS) throw Failure(HcclResult(verdict.result), get(verdict.message));
  }

  bool here(uint32_t rank) const { return get(all_[rank].host) == own_host(); }

  void place(uint32_t rank) {
    made_.peers[rank].place = (here(rank) ? "" : "host " + get(all_[rank].host) + ", ") + std::string("device ") + std::to_string(all_[rank].device) +
                              ", process " + std::to_string(all_[rank].process);
  }

  // The first rank of a host makes the memory and passes it to the others.
  void share_memory() {
    std::vector<uint32_t> members;
    for (uint32_t rank = 0; rank < made_.ranks; ++rank) {
      if (here(rank)) members.push_back(rank);
    }
    if (members.size() < 2) return;
    const auto count = uint32_t(members.size());
    Preamble preamble{};
    put(preamble.token, get(meeting_.token));
    if (made_.rank == members.front()) {
      Descriptor file = Segment::make_file(count);
      for (uint32_t served = 1; served < count;) {
        Descriptor guest = accept_before(local_, deadline_, "a rank of this host");
        receive_all(guest, &preamble, sizeof(preamble), deadline_, "a rank of this host");
        if (get(preamble.token) != get(meeting_.token)) continue;
        send_descriptor(guest, file, deadline_);
        ++served;
      }
      made_.segment = Segment::attach(std::move(file), count);
    } else {
      const Hello& first = all_[members.front()];
      Descriptor host = connect_locally(get(first.local), deadline_, false);
      send_all(host, &preamble, sizeof(preamble), deadline_);
      made_.segment = Segment::attach(receive_descriptor(host, deadline_), count);
    }
    for (uint32_t member = 0; member < count; ++member) {
      if (members[member] == made_.rank) made_.member = member;
    }
    made_.segment->join(made_.member);
    made_.bell = &made_.segment->bell(made_.member);
    for (uint32_t member = 0; member < count; ++member) open_rings(members[member], member);
  }

  void open_rings(uint32_t rank, uint32_t member) {
    if (rank == made_.rank) return;
    auto& peer = made_.peers[rank];
    peer.bell = &made_.segment->bell(member);
    peer.member = member;
    for (uint32_t plane = 0; plane < kPlanes; ++plane) {
      peer.out[plane] = made_.segment->outbox(Plane(plane), made_.member, member);
      peer.in[plane] = made_.segment->inbox(Plane(plane), member, made_.member);
    }
  }

  // Only where there are several hosts: others open no port.
  void exchange_addresses() {
    bool several = false;
    for (const Hello& one : all_) several |= get(one.host) != get(all_.front().host);
    if (!several) return;
    Address mine{};
    put(mine.ip, own_ip());
    listener_ = listen_on(&mine);
    send_all(root_, &mine, sizeof(mine), deadline_);
    addresses_.resize(made_.ranks);
    receive(addresses_.data(), addresses_.size() * sizeof(Address));
  }

  // A connection for each direction and plane; all are opened before the first is accepted.
  void connect_hosts() {
    if (!listener_) return;
    uint32_t remote = 0;
    for (uint32_t rank = 0; rank < made_.ranks; ++rank) remote += !here(rank);
    made_.watch = std::make_unique<SocketWatch>(*made_.bell);
    Preamble preamble{};
    put(preamble.token, get(meeting_.token));
    for (uint32_t rank = 0; rank < made_.ranks; ++rank) {
      if (here(rank)) continue;
      for (uint32_t plane = 0; plane < kPlanes; ++plane) {
        Descriptor socket = connect_to(addresses_[rank], deadline_, false);
        preamble.rank = made_.rank;
        preamble.plane = plane;
        send_all(socket, &preamble, sizeof(preamble), deadline_);
        tune_tcp(socket);
        made_.watch->add(socket.get());
        made_.peers[rank].out[plane] = tcp_outbox(std::move(socket), made_.peers[rank].closed);
      }
    }
    for (uint32_t open = 0; open < remote * kPlanes;) open += accept_one();
  }

  bool accept_one() {
    Descriptor socket = accept_before(listener_, deadline_, "a rank of another host");
    Preamble preamble;
    receive_all(socket, &preamble, sizeof(preamble), deadline_, "a rank of another host");
    if (get(preamble.token) != get(meeting_.token) || preamble.rank >= made_.ranks || preamble.plane >= kPlanes) return false;
    tune_tcp(socket);
    made_.watch->add(socket.get());
    auto& peer = made_.peers[preamble.rank];
    peer.in[preamble.plane] = tcp_inbox(std::move(socket), peer.closed);
    return true;
  }

  const Meeting& meeting_;
  Communicator& made_;
  const Deadline deadline_;
  Descriptor root_, local_, listener_;
  std::vector<Hello> all_;
  std::vector<Address> addresses_;
};

std::string unique_name(const Address& address) {
  const auto now = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  return std::string(address.ip) + "%cannsim_" + std::to_string(address.port) + "_0_" + std::to_string(now);
}

}  // namespace

std::string own_host() {
  const char* played = std::getenv("CANNSIM_HOST");
  if (played != nullptr && *played != '\0') return std::string(played).substr(0, 90);
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  struct stat network {};
  stat("/proc/self/ns/net", &network);
  return boot + "/" + std::to_string(network.st_ino);
}

Meeting open_meeting() {
  Meeting made{};
  std::memcpy(made.magic, kMagic, sizeof(kMagic));
  put(made.token, random_text());
  put(made.host, own_host());
  Listeners listeners;
  std::string local = "cannsim-hccl-" + random_text();
  listeners.local = listen_locally(&local);
  put(made.local, local);
  put(made.address.ip, own_ip());
  listeners.remote = listen_on(&made.address);
  put(made.name, unique_name(made.address));
  std::lock_guard lock(opened().mutex);
  opened().all[get(made.token)] = std::move(listeners);
  return made;
}

Meeting known_meeting(const std::string& secret, const std::string& name, const Address& address, bool several_hosts, bool same_host, bool root) {
  Meeting made{};
  std::memcpy(made.magic, kMagic, sizeof(kMagic));
  put(made.token, secret);
  put(made.name, name);
  put(made.host, same_host ? own_host() : "");
  put(made.local, "cannsim-hccl-" + secret);
  made.address = address;
  made.patient = 1;
  if (!root) return made;
  Listeners listeners;
  std::string local = get(made.local);
  listeners.local = listen_locally(&local);
  if (several_hosts) listeners.remote = listen_on(&made.address);
  std::lock_guard lock(opened().mutex);
  opened().all[get(made.token)] = std::move(listeners);
  return made;
}

std::shared_ptr<Communicator> alone(const Meeting& meeting, int device, const Options& options) {
  claim(meeting);
  Options mine = options;
  if (mine.name.empty()) mine.name = get(meeting.name);
  return std::make_shared<Communicator>(0, 1, device, mine);
}

std::shared_ptr<Communicator> meet(const Meeting& meeting, uint32_t rank, uint32_t ranks, int device, const Options& options) {
  if (std::memcmp(meeting.magic, kMagic, sizeof(kMagic)) != 0)
    throw Failure(HCCL_E_PARA, "the root information was not made by HcclGetRootInfo of this library", ACL_ERROR_RT_PARAM_INVALID);
  if (ranks == 1) return alone(meeting, device, options);
  Options mine = options;
  if (mine.name.empty()) mine.name = get(meeting.name);
  auto made = std::make_shared<Communicator>(rank, ranks, device, mine);
  const Deadline deadline = Clock::now() + environment().connect_timeout;
  std::thread host;
  if (auto listeners = claim(meeting)) {
    host = std::thread([&meeting, ranks, deadline, listeners = std::move(*listeners)]() mutable { Host(std::move(listeners), meeting, ranks, deadline).run(); });
  }
  try {
    Joining(meeting, *made, deadline + kTelling).run();
  } catch (...) {
    if (host.joinable()) host.join();
    throw;
  }
  if (host.joinable()) host.join();
  return made;
}

}  // namespace cannsim::collectives
