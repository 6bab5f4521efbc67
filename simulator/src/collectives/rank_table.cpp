// Reads rank tables (JSON) and lets the ranks of one meet.
#include "collectives/rank_table.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "collectives/environment.h"

namespace cannsim::collectives {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Failure(HCCL_E_PARA, "EI0004: the rank table " + message, ACL_ERROR_RT_PARAM_INVALID); }

// The part of JSON that rank tables are made of. Numbers and words are kept as text: tables write
// their numbers as strings as often as not.
struct Json {
  std::string text;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;
  const Json* find(const std::string& key) const {
    for (const auto& [name, value] : members) {
      if (name == key) return &value;
    }
    return nullptr;
  }
};

class Reader {
 public:
  explicit Reader(const std::string& text) : text_(text) {}
  Json all() {
    Json made = value(0);
    if (next() != '\0') fail("its end");
    return made;
  }

 private:
  [[noreturn]] void fail(const std::string& wanted) {
    const auto line = 1 + std::count(text_.begin(), text_.begin() + long(std::min(at_, text_.size())), '\n');
    refuse("is not JSON: " + wanted + " was expected in line " + std::to_string(line));
  }
  char next() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char wanted) {
    if (next() != wanted) return false;
    ++at_;
    return true;
  }
  void want(char wanted) {
    if (!take(wanted)) fail(std::string("'") + wanted + "'");
  }
  std::string string() {
    want('"');
    std::string made;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\') ++at_;
      if (at_ < text_.size()) made += text_[at_++];
    }
    want('"');
    return made;
  }
  Json value(int depth) {
    if (depth > 32) fail("less depth");
    Json made;
    if (take('{')) {
      while (!take('}')) {
        if (!made.members.empty()) want(',');
        std::string key = (next(), string());
        want(':');
        made.members.emplace_back(std::move(key), value(depth + 1));
      }
    } else if (take('[')) {
      while (!take(']')) {
        if (!made.items.empty()) want(',');
        made.items.push_back(value(depth + 1));
      }
    } else if (next() == '"') {
      made.text = string();
    } else {
      while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) || std::string("+-.").find(text_[at_]) != std::string::npos))
        made.text += text_[at_++];
      if (made.text.empty()) fail("a value");
    }
    return made;
  }
  const std::string& text_;
  size_t at_ = 0;
};

const Json& need(const Json& object, const std::string& key) {
  const Json* found = object.find(key);
  if (found == nullptr) refuse("has no '" + key + "' where one is needed");
  return *found;
}

int64_t number(const Json& value, const std::string& key) {
  char* end = nullptr;
  const long long made = std::strtoll(value.text.c_str(), &end, 10);
  if (value.text.empty() || *end != '\0' || made < 0) refuse("says '" + key + "' is '" + value.text + "', which is no whole number");
  return made;
}

// 128 bits of FNV-1a (two 64-bit lanes): the ranks' common name for their meeting.
std::string digest(const std::string& text) {
  uint64_t lanes[2] = {14695981039346656037ull, 1099511628211ull};
  for (unsigned char byte : text) {
    for (uint64_t& lane : lanes) lane = (lane ^ byte) * 1099511628211ull;
    lanes[1] ^= lanes[0] >> 29;
  }
  std::ostringstream made;
  made << std::hex << lanes[0] << lanes[1];
  return made.str().substr(0, 31);
}

}  // namespace

RankTable read_rank_table(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw Failure(HCCL_E_OPEN_FILE_FAILURE, "the rank table '" + path + "' cannot be read", ACL_ERROR_RT_PARAM_INVALID);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const Json all = Reader(text).all();
  const Json* status = all.find("status");
  if (status != nullptr && status->text != "completed") refuse("'" + path + "' has status '" + status->text + "', not 'completed'");
  RankTable table;
  table.secret = digest(text);
  for (const Json& server : need(all, "server_list").items) {
    const Json* host_ip = server.find("host_ip");
    for (const Json& device : need(server, "device").items) {
      table.ranks.push_back({uint32_t(number(need(device, "rank_id"), "rank_id")), int(number(need(device, "device_id"), "device_id")),
                             need(server, "server_id").text, host_ip == nullptr ? need(server, "server_id").text : host_ip->text});
    }
  }
  if (const Json* count = all.find("server_count"); count != nullptr && number(*count, "server_count") != int64_t(need(all, "server_list").items.size()))
    refuse("'" + path + "' lists " + std::to_string(need(all, "server_list").items.size()) + " servers and says there are " + count->text);
  std::sort(table.ranks.begin(), table.ranks.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  for (uint32_t rank = 0; rank < table.ranks.size(); ++rank) {
    if (table.ranks[rank].rank != rank) refuse("'" + path + "' has no rank " + std::to_string(rank) + ", or has one twice; ranks count from 0");
  }
  if (table.ranks.empty()) refuse("'" + path + "' has no rank");
  return table;
}

std::shared_ptr<Communicator> meet_by_table(const std::string& path, uint32_t rank, int device, const Options& options) {
  const RankTable table = read_rank_table(path);
  const auto ranks = uint32_t(table.ranks.size());
  if (rank >= ranks) refuse("'" + path + "' has ranks 0 to " + std::to_string(ranks - 1) + ", not " + std::to_string(rank));
  const RankTable::Rank &mine = table.ranks[rank], &root = table.ranks.front();
  const int physical = settings().visible.at(size_t(device));
  if (mine.device != physical)
    refuse("'" + path + "' puts rank " + std::to_string(rank) + " on device " + std::to_string(mine.device) + "; this thread's is " + std::to_string(physical));
  bool several = false;
  for (const auto& one : table.ranks) several |= one.server != root.server;
  Address address{};
  root.host_ip.copy(address.ip, sizeof(address.ip) - 1);
  address.port = environment().base_port;
  const std::string name = options.name.empty() ? "hccl_world_group" : options.name;
  return meet(known_meeting(table.secret, name, address, several, mine.server == root.server, rank == 0), rank, ranks, device, options);
}

}  // namespace cannsim::collectives
