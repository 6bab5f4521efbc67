// The collectives as messages between ranks. Each runs on a stream's thread and returns when it is
// done. Sums are made in the order of the ranks, whatever arrives first: the same bits every time,
// on every rank.
#pragma once

#include "collectives/communicator.h"

namespace cannsim::collectives {

struct Item {  // of HcclBatchSendRecv
  bool send;
  void* buffer;
  uint64_t count;
  HcclDataType type;
  uint32_t peer;
};

using Counts = std::vector<uint64_t>;  // elements, by rank

void all_reduce(Communicator& c, const void* source, void* target, uint64_t count, HcclDataType type, HcclReduceOp op);
void reduce(Communicator& c, const void* source, void* target, uint64_t count, HcclDataType type, HcclReduceOp op, uint32_t root);
void broadcast(Communicator& c, void* buffer, uint64_t count, HcclDataType type, uint32_t root);
void scatter(Communicator& c, const void* source, void* target, uint64_t count, HcclDataType type, uint32_t root);
void all_gather(Communicator& c, const char* name, const void* source, uint64_t count, void* target, const Counts& counts, const Counts& places,
                HcclDataType type);
void reduce_scatter(Communicator& c, const char* name, const void* source, const Counts& counts, const Counts& places, void* target,
                    HcclDataType type, HcclReduceOp op);
void all_to_all(Communicator& c, const char* name, const void* source, const Counts& sent, const Counts& sent_places, HcclDataType sent_type,
                void* target, const Counts& received, const Counts& received_places, HcclDataType received_type);
void send_and_receive(Communicator& c, const std::vector<Item>& items);
void barrier(Communicator& c);

// From one rank to others of the communicator, outside streams: for the making of subgroups.
void hand_out(Communicator& c, const std::vector<uint32_t>& ranks, void* data, uint64_t bytes);

}  // namespace cannsim::collectives
