#!lua
-- Refuse the tokens of a user that were issued until now.
--
-- KEYS  the cut-offs: user ids, scored by the second until which their tokens are refused
-- ARGV  user id
-- Gives the cut-off, Unix seconds.
--
-- Scores only rise, also when a replica with a slow clock was promoted: who reads from the highest
-- score that it knows misses none.

local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
local cutoff = tonumber(redis.call('TIME')[1])
if newest and tonumber(newest) > cutoff then
    cutoff = tonumber(newest)
end
redis.call('ZADD', KEYS[1], cutoff, ARGV[1])
return cutoff
