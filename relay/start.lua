#!lua
-- The very first start decides, once and for all, where it is: the first caller's ends are kept.
--
-- KEYS  start
-- ARGV  a partition's name and its end offset, again and again; none to ask only
-- Gives the hash as it is now, flat.

if #ARGV > 0 and redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('HSET', KEYS[1], unpack(ARGV))
end
return redis.call('HGETALL', KEYS[1])
