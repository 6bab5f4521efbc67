// Sockets with deadlines, descriptors passed between processes, and which of the host's addresses to use.
#include "collectives/sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <set>
#include <sstream>

namespace cannsim::collectives {
namespace {

struct Register {
  std::mutex mutex;
  std::set<int> open;
};

Register& descriptors() {
  static auto* all = [] {
    pthread_atfork([] { descriptors().mutex.lock(); }, [] { descriptors().mutex.unlock(); },
                   [] {
                     for (int number : descriptors().open) close(number);
                     descriptors().open.clear();
                     descriptors().mutex.unlock();
                   });
    return new Register;
  }();
  return *all;
}

[[noreturn]] void refuse(HcclResult result, const std::string& what, int error) {
  throw Failure(result, what + ": " + std::strerror(error));
}

// False at the deadline.
bool ready(int socket, short events, Deadline deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd entry{socket, events, 0};
    const int found = poll(&entry, 1, int(std::max<int64_t>(0, left)));
    if (found > 0) return true;
    if (found == 0 && left <= 0) return false;
    if (found < 0 && errno != EINTR) refuse(HCCL_E_SYSCALL, "poll", errno);
  }
}

sockaddr_un local_address(const std::string& name, socklen_t* length) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), std::min(name.size(), sizeof(address.sun_path) - 1));
  // The family alone asks the kernel for a name.
  *length = socklen_t(offsetof(sockaddr_un, sun_path) + (name.empty() ? 0 : 1 + name.size()));
  return address;
}

sockaddr_in internet_address(const Address& address) {
  sockaddr_in made{};
  made.sin_family = AF_INET;
  made.sin_port = htons(address.port);
  if (inet_pton(AF_INET, address.ip, &made.sin_addr) != 1)
    throw Failure(HCCL_E_PARA, std::string("'") + address.ip + "' is not an IPv4 address");
  return made;
}

std::string text(const Address& address) { return std::string(address.ip) + ":" + std::to_string(address.port); }

template <typename Make>
Descriptor connect_before(Make make, const std::string& to, Deadline deadline, bool patient) {
  while (true) {
    const int error = make.attempt();
    if (error == 0) return std::move(make.socket);
    if (!patient || (error != ECONNREFUSED && error != EAGAIN && error != ETIMEDOUT && error != EHOSTUNREACH && error != ENETUNREACH))
      refuse(HCCL_E_TCP_CONNECT, "cannot connect to " + to, error);
    if (Clock::now() >= deadline) refuse(HCCL_E_TIMEOUT, "nobody listened at " + to + " in time (HCCL_CONNECT_TIMEOUT)", error);
    poll(nullptr, 0, 20);
  }
}

struct Attempt {
  int family;
  const sockaddr* address;
  socklen_t length;
  Deadline deadline;
  Descriptor socket;
  int attempt() {
    socket = Descriptor(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (connect(socket.get(), address, length) == 0) return 0;
    if (errno != EINPROGRESS) return errno;
    if (!ready(socket.get(), POLLOUT, deadline)) return ETIMEDOUT;
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
  }
};

// HCCL_SOCKET_IFNAME: prefixes separated by commas; "^" first excludes them, "=" first wants whole names.
bool admitted(const std::string& interface, const char* wanted) {
  if (wanted == nullptr || *wanted == '\0') return true;
  std::string list = wanted;
  const bool exclude = list[0] == '^';
  if (exclude) list.erase(0, 1);
  const bool whole = !list.empty() && list[0] == '=';
  if (whole) list.erase(0, 1);
  std::stringstream names(list);
  for (std::string name; std::getline(names, name, ',');) {
    if (!name.empty() && (whole ? interface == name : interface.rfind(name, 0) == 0)) return !exclude;
  }
  return exclude;
}

}  // namespace

Descriptor::Descriptor(int number) : number_(number) {
  if (number < 0) refuse(HCCL_E_SYSCALL, "no more descriptors", errno);
  std::lock_guard lock(descriptors().mutex);
  descriptors().open.insert(number);
}

Descriptor::~Descriptor() {
  if (number_ < 0) return;
  std::lock_guard lock(descriptors().mutex);
  if (descriptors().open.erase(number_) > 0) close(number_);
}

Descriptor listen_locally(std::string* name) {
  Descriptor made(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  socklen_t length;
  sockaddr_un address = local_address(*name, &length);
  if (bind(made.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(made.get(), 1024) != 0)
    refuse(errno == EADDRINUSE ? HCCL_E_UNAVAIL : HCCL_E_SYSCALL, "cannot listen at '@" + *name + "'", errno);
  length = sizeof(address);
  getsockname(made.get(), reinterpret_cast<sockaddr*>(&address), &length);
  *name = std::string(address.sun_path + 1, length - offsetof(sockaddr_un, sun_path) - 1);
  return made;
}

Descriptor listen_on(Address* wanted) {
  Descriptor made(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int yes = 1;
  setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  sockaddr_in address = internet_address(*wanted);
  if (bind(made.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 || listen(made.get(), 1024) != 0)
    refuse(HCCL_E_TCP_CONNECT, "cannot listen on " + text(*wanted) + " (HCCL_IF_IP, HCCL_SOCKET_IFNAME, HCCL_IF_BASE_PORT)", errno);
  socklen_t length = sizeof(address);
  getsockname(made.get(), reinterpret_cast<sockaddr*>(&address), &length);
  wanted->port = ntohs(address.sin_port);
  return made;
}

Descriptor accept_before(const Descriptor& listener, Deadline deadline, const std::string& awaited) {
  while (true) {
    if (!ready(listener.get(), POLLIN, deadline)) throw Failure(HCCL_E_TIMEOUT, awaited + " did not connect in time (HCCL_CONNECT_TIMEOUT)");
    const int made = accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (made >= 0) return Descriptor(made);
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) refuse(HCCL_E_SYSCALL, "accept", errno);
  }
}

Descriptor connect_locally(const std::string& name, Deadline deadline, bool patient) {
  socklen_t length;
  const sockaddr_un address = local_address(name, &length);
  return connect_before(Attempt{AF_UNIX, reinterpret_cast<const sockaddr*>(&address), length, deadline, {}}, "'@" + name + "'", deadline, patient);
}

Descriptor connect_to(const Address& wanted, Deadline deadline, bool patient) {
  const sockaddr_in address = internet_address(wanted);
  return connect_before(Attempt{AF_INET, reinterpret_cast<const sockaddr*>(&address), sizeof(address), deadline, {}}, text(wanted), deadline,
                        patient);
}

void send_all(const Descriptor& socket, const void* data, size_t bytes, Deadline deadline) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t sent = send(socket.get(), next, bytes, MSG_NOSIGNAL);
    if (sent > 0) {
      next += sent;
      bytes -= size_t(sent);
    } else if (errno != EAGAIN && errno != EINTR) {
      refuse(HCCL_E_TCP_TRANSFER, "the peer is gone", errno);
    } else if (!ready(socket.get(), POLLOUT, deadline)) {
      throw Failure(HCCL_E_TIMEOUT, "the peer does not read (HCCL_CONNECT_TIMEOUT)");
    }
  }
}

void receive_all(const Descriptor& socket, void* data, size_t bytes, Deadline deadline, const std::string& awaited) {
  char* next = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = recv(socket.get(), next, bytes, 0);
    if (got > 0) {
      next += got;
      bytes -= size_t(got);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      throw Failure(HCCL_E_TCP_TRANSFER, awaited + " has gone");
    } else if (!ready(socket.get(), POLLIN, deadline)) {
      throw Failure(HCCL_E_TIMEOUT, awaited + " did not answer in time (HCCL_CONNECT_TIMEOUT)");
    }
  }
}

void send_descriptor(const Descriptor& socket, const Descriptor& sent, Deadline deadline) {
  char mark = 'd';
  iovec body{&mark, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &body;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int));
  const int number = sent.get();
  std::memcpy(CMSG_DATA(part), &number, sizeof(number));
  while (sendmsg(socket.get(), &message, MSG_NOSIGNAL) < 0) {
    if (errno != EAGAIN && errno != EINTR) refuse(HCCL_E_TCP_TRANSFER, "cannot pass the shared memory on", errno);
    if (!ready(socket.get(), POLLOUT, deadline)) throw Failure(HCCL_E_TIMEOUT, "a rank does not take the shared memory");
  }
}

Descriptor receive_descriptor(const Descriptor& socket, Deadline deadline) {
  char mark;
  iovec body{&mark, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &body;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  while (true) {
    const ssize_t got = recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
    if (got > 0) break;
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) throw Failure(HCCL_E_TCP_TRANSFER, "the rank that shares its memory has gone");
    if (!ready(socket.get(), POLLIN, deadline)) throw Failure(HCCL_E_TIMEOUT, "no shared memory was passed on in time");
  }
  const cmsghdr* part = CMSG_FIRSTHDR(&message);
  if (part == nullptr || part->cmsg_type != SCM_RIGHTS) throw Failure(HCCL_E_INTERNAL, "no descriptor in the message");
  int number;
  std::memcpy(&number, CMSG_DATA(part), sizeof(number));
  return Descriptor(number);
}

void make_nonblocking(const Descriptor& socket) { fcntl(socket.get(), F_SETFL, fcntl(socket.get(), F_GETFL) | O_NONBLOCK); }

// Small messages leave at once; a host that vanished without a word is noticed after 30 s, as by
// HCCL's heartbeat ("Heartbeat Lost Occurred: no heartbeat from the peer within 30 s", HCCL user guide).
void tune_tcp(const Descriptor& socket) {
  auto set = [&](int level, int option, int value) { setsockopt(socket.get(), level, option, &value, sizeof(value)); };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 4);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 30000);
}

std::string own_ip() {
  const char* fixed = std::getenv("HCCL_IF_IP");
  if (fixed != nullptr && *fixed != '\0') return fixed;
  const char* wanted = std::getenv("HCCL_SOCKET_IFNAME");
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return "127.0.0.1";
  std::string found, loopback = "127.0.0.1";
  for (const ifaddrs* one = all; one != nullptr && found.empty(); one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET || !(one->ifa_flags & IFF_UP)) continue;
    const bool named = wanted != nullptr && *wanted != '\0';
    if (!admitted(one->ifa_name, wanted) || (!named && (one->ifa_flags & IFF_LOOPBACK))) continue;
    char ip[INET_ADDRSTRLEN];
    found = inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(one->ifa_addr)->sin_addr, ip, sizeof(ip));
  }
  freeifaddrs(all);
  return found.empty() ? loopback : found;
}

}  // namespace cannsim::collectives
