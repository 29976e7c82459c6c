#!lua
-- Tell which connections of some users of a bucket a replica has, and renew its lease.
--
-- KEYS  the bucket's replicas, then each user's presence
-- ARGV  replica, ms for which its lease holds from now on, seconds to keep a presence, cap (0: none),
--       then each user's share (empty: no connection)
-- Gives 1 if the replica had no lease, so that its shares may have been taken out, else 0; then for each
-- user with more connections than the cap its place among them, and replica and share of all; then for
-- each whose presence is no such thing its place and the error.

local replica, cap = ARGV[1], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)
local began = redis.call('ZADD', KEYS[1], now + ARGV[2], replica)
redis.call('PEXPIRE', KEYS[1], ARGV[2])

local above, refused = {}, {}
for i = 2, #KEYS do
    local key, share = KEYS[i], ARGV[i + 3]
    local told = redis.pcall('HGETALL', key)
    if told.err then
        refused[#refused + 1] = {i - 2, told.err}
    else
        local all, count = {i - 2, replica, share}, tonumber(share:match('^%d+') or 0)
        for j = 1, #told, 2 do
            local other, others = told[j], told[j + 1]
            if other ~= replica then
                if redis.call('ZSCORE', KEYS[1], other) then
                    count = count + tonumber(others:match('^%d+') or 0)
                    all[#all + 1], all[#all + 2] = other, others
                else
                    redis.call('HDEL', key, other)
                end
            end
        end
        if share == '' then
            redis.call('HDEL', key, replica)
        else
            redis.call('HSET', key, replica, share)
            redis.call('EXPIRE', key, ARGV[3])
            if cap > 0 and count > cap then
                above[#above + 1] = all
            end
        end
    end
end
return {began, above, refused}
