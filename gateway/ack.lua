#!lua
-- Keep a device's ack, unless another connection wrote one since it was read.
--
-- KEYS  the user's acks
-- ARGV  device, what was read (empty: nothing), what to write, seconds to keep all of them, then
--       devices to forget
-- Gives 1 if it was written, else 0.

if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
    return 0
end
for i = 5, #ARGV do
    redis.call('HDEL', KEYS[1], ARGV[i])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
