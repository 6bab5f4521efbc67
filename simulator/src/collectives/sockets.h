// Sockets and descriptors of the collectives: owned, with deadlines, and not shared with children.
#pragma once

#include <chrono>
#include <string>
#include <utility>

#include "hccl/hccl.h"
#include "runtime/runtime.h"

namespace cannsim::collectives {

// A failed HCCL call: HCCL's code for the caller, ACL's for the stream that it happened on.
class Failure : public Error {
 public:
  Failure(HcclResult result, const std::string& message, int acl = ACL_ERROR_RT_INTERNAL_ERROR) : Error(acl, message), result(result) {}
  HcclResult result;
};

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

// A file descriptor that this process alone uses: closed on exec, and closed in forked children,
// so that a peer sees the end of the process and not that of its last child.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number);
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor();
  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

struct Address {
  char ip[64];  // dotted IPv4; empty: none
  uint16_t port;
};

// Listeners. An abstract Unix address lives in a network namespace and in no file system, so that
// nothing is left behind by a killed process. An empty name is chosen by the kernel.
Descriptor listen_locally(std::string* name);
Descriptor listen_on(Address* address);  // port 0 is chosen by the kernel
Descriptor accept_before(const Descriptor& listener, Deadline deadline, const std::string& awaited);

// Connects; tries again while nobody listens yet when `patient`.
Descriptor connect_locally(const std::string& name, Deadline deadline, bool patient);
Descriptor connect_to(const Address& address, Deadline deadline, bool patient);

// Whole messages. Throw Failure: HCCL_E_TIMEOUT at the deadline, HCCL_E_TCP_TRANSFER when the peer is gone.
void send_all(const Descriptor& socket, const void* data, size_t bytes, Deadline deadline);
void receive_all(const Descriptor& socket, void* data, size_t bytes, Deadline deadline, const std::string& awaited);
void send_descriptor(const Descriptor& socket, const Descriptor& sent, Deadline deadline);
Descriptor receive_descriptor(const Descriptor& socket, Deadline deadline);

void make_nonblocking(const Descriptor& socket);
void tune_tcp(const Descriptor& socket);

// The address that this host's ranks are reached at: HCCL_IF_IP, else an interface that
// HCCL_SOCKET_IFNAME admits, else the first that is not loopback, else loopback.
std::string own_ip();

}  // namespace cannsim::collectives
