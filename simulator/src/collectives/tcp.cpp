// Channels over TCP, one connection for each ordered pair of ranks and plane, and the thread that
// rings the bell when a connection can go on.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "collectives/transport.h"

namespace cannsim::collectives {
namespace {

constexpr size_t kBuffer = 512 << 10;

using Closed = std::shared_ptr<std::atomic<bool>>;

bool try_again() { return errno == EAGAIN || errno == EINTR; }

class TcpOutbox final : public Outbox {
 public:
  TcpOutbox(Descriptor socket, Closed closed) : socket_(std::move(socket)), closed_(std::move(closed)), buffer_(kBuffer) {}
  char* room(size_t* bytes) override {
    flush();
    const size_t at = committed % kBuffer;
    *bytes = std::min(kBuffer - size_t(committed - sent_), kBuffer - at) / kLine * kLine;
    return buffer_.data() + at;
  }
  void commit(size_t bytes) override {
    committed += bytes;
    flush();
  }
  uint64_t gone() override {
    flush();
    return sent_;
  }
  // The receiver answers each point-to-point message with its number of bytes.
  uint64_t taken() override {
    flush();
    while (true) {
      const ssize_t got = recv(socket_.get(), acknowledgement_ + got_, sizeof(acknowledgement_) - got_, 0);
      if (got <= 0) {
        if (got == 0 || !try_again()) *closed_ = true;
        return taken_;
      }
      got_ += size_t(got);
      if (got_ < sizeof(acknowledgement_)) continue;
      std::memcpy(&taken_, acknowledgement_, sizeof(taken_));
      got_ = 0;
    }
  }
  void hang_up() override { shutdown(socket_.get(), SHUT_RDWR); }

 private:
  void flush() {
    while (sent_ < committed) {
      const size_t at = sent_ % kBuffer;
      const ssize_t sent = send(socket_.get(), buffer_.data() + at, std::min(size_t(committed - sent_), kBuffer - at), MSG_NOSIGNAL);
      if (sent > 0) {
        sent_ += uint64_t(sent);
        continue;
      }
      if (!try_again()) *closed_ = true;
      return;
    }
  }
  Descriptor socket_;
  Closed closed_;
  std::vector<char> buffer_;
  uint64_t sent_ = 0, taken_ = 0;
  char acknowledgement_[sizeof(uint64_t)];
  size_t got_ = 0;
};

class TcpInbox final : public Inbox {
 public:
  TcpInbox(Descriptor socket, Closed closed) : socket_(std::move(socket)), closed_(std::move(closed)), buffer_(kBuffer) {}
  const char* data(size_t* bytes) override {
    fill();
    const size_t at = taken_ % kBuffer;
    *bytes = std::min(size_t(arrived_ - taken_), kBuffer - at);
    return buffer_.data() + at;
  }
  void take(size_t bytes) override { taken_ += bytes; }
  void acknowledge() override {
    // Eight bytes on a connection whose other direction is otherwise unused: they always fit.
    if (send(socket_.get(), &taken_, sizeof(taken_), MSG_NOSIGNAL) != ssize_t(sizeof(taken_))) *closed_ = true;
  }
  void hang_up() override { shutdown(socket_.get(), SHUT_RDWR); }

 private:
  void fill() {
    while (arrived_ - taken_ < kBuffer) {
      const size_t at = arrived_ % kBuffer;
      const ssize_t got = recv(socket_.get(), buffer_.data() + at, std::min(kBuffer - size_t(arrived_ - taken_), kBuffer - at), 0);
      if (got > 0) {
        arrived_ += uint64_t(got);
        continue;
      }
      if (got == 0 || !try_again()) *closed_ = true;
      return;
    }
  }
  Descriptor socket_;
  Closed closed_;
  std::vector<char> buffer_;
  uint64_t arrived_ = 0, taken_ = 0;
};

}  // namespace

std::unique_ptr<Outbox> tcp_outbox(Descriptor socket, Closed closed) { return std::make_unique<TcpOutbox>(std::move(socket), std::move(closed)); }
std::unique_ptr<Inbox> tcp_inbox(Descriptor socket, Closed closed) { return std::make_unique<TcpInbox>(std::move(socket), std::move(closed)); }

SocketWatch::SocketWatch(Bell& bell) : bell_(bell), poll_(epoll_create1(EPOLL_CLOEXEC)), stop_(eventfd(0, EFD_CLOEXEC)), process_(getpid()) {
  add(stop_.get());
}

SocketWatch::~SocketWatch() {
  if (!thread_.joinable()) return;
  if (process_ != getpid()) {
    thread_.detach();  // a forked child has no such thread
    return;
  }
  const uint64_t one = 1;
  if (write(stop_.get(), &one, sizeof(one)) == ssize_t(sizeof(one))) thread_.join();
}

void SocketWatch::add(int socket) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.fd = socket;
  if (epoll_ctl(poll_.get(), EPOLL_CTL_ADD, socket, &event) != 0) throw Failure(HCCL_E_SYSCALL, std::string("epoll: ") + std::strerror(errno));
}

void SocketWatch::start() {
  thread_ = std::thread([this] { loop(); });
  pthread_setname_np(thread_.native_handle(), "hccl-sockets");
}

void SocketWatch::loop() {
  epoll_event events[64];
  while (true) {
    const int count = epoll_wait(poll_.get(), events, 64, -1);
    for (int i = 0; i < count; ++i) {
      if (events[i].data.fd == stop_.get() && (events[i].events & EPOLLIN)) return;
    }
    if (count > 0) ring(bell_);
  }
}

}  // namespace cannsim::collectives
